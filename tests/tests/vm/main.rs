//! Builders in virtual machines, end to end. Processors are emulated: that works on every machine that tests, and where KVM works
//! nothing but the speed is another.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use cofferdam_tests::http::{Response, Server, request};
use cofferdam_tests::{
    Build, Builder, Context, Data, Options, Server as ApiServer, leftovers, need_root, program,
    test_kernel,
};

/// Bytes of a guest's memory. Small, so that tests can run side by side.
const MEMORY: &str = "1500MiB";
/// Its program, as the kernel shortens the name.
const QEMU: &str = "qemu-system-x86";

/// A configuration with an emulated machine.
fn config(more: &str) -> String {
    let (kernel, modules) = test_kernel();
    format!(
        "{more}\n[isolation]\nlevel = \"vm\"\nmemory = \"{MEMORY}\"\n[isolation.vm]\naccelerator = \"tcg\"\n\
         kernel = \"{}\"\nmodules = \"{}\"\ndisk = \"3GiB\"\n",
        kernel.display(),
        modules.display()
    )
}

fn options(more: &str) -> Options {
    need_root();
    Options { config: config(more), ..Options::default() }
}

/// The process of QEMU below a supervisor.
fn qemu(builder: &Builder) -> i32 {
    let tree = leftovers::tree(builder.pid());
    let found = tree.iter().find(|(_, name)| name.starts_with(QEMU));
    *found.unwrap_or_else(|| panic!("no {QEMU} in {tree:?}")).0
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

const DOCKERFILE: &str = "FROM @busybox\n\
    RUN uname -r && date +%s\n\
    COPY --chown=1000:50 file /srv/\n\
    RUN --mount=type=cache,target=/cache echo kept > /cache/file\n\
    RUN --mount=type=secret,id=s sha256sum < /run/secrets/s > /proof && stat -c '%u:%g' /srv/file\n";

#[test]
fn builds_run_under_another_kernel_and_their_store_is_a_disk() {
    let host = rustix::system::uname().release().to_string_lossy().into_owned();
    let builder = Builder::start(&options(""));
    let context = Context::dockerfile(DOCKERFILE);
    context.write("file", "content");
    let secret =
        |build: Build| build.args("--secret id=s,env=PLANTED").env("PLANTED", "vm-s3cr3t-0815");
    let (outcome, image) = secret(builder.build(&context)).image_with("");
    let log = outcome.log("uname -r");
    let (kernel, time) = log.split_once('\n').unwrap();
    assert!(kernel.contains("cloud-amd64"), "{kernel}");
    assert_ne!(kernel, host);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(time.parse().unwrap()) < 60, "the guest's clock says {time}");
    assert_eq!(outcome.log("/proof"), "1000:50");
    assert_eq!(image.text("srv/file"), "content");
    assert!(image.text("proof").len() > 64);

    assert_eq!(names(&builder.root().join("store")), ["disk"]);
    let disk = fs::metadata(builder.root().join("store/disk")).unwrap();
    assert_eq!(disk.len(), 3 << 30);
    let home = builder.stop();

    // Another machine finds what the first one built, cache directories included.
    let again = Builder::start_in(home, &options(""));
    let outcome = secret(again.build(&context)).run().success();
    assert_eq!(outcome.ran(), Vec::<String>::new(), "{}", outcome.stderr);
    let cache = Context::dockerfile(
        "FROM @busybox\nRUN --mount=type=cache,target=/cache cat /cache/file\n",
    );
    assert_eq!(again.build(&cache).run().success().log("RUN "), "kept");
}

/// Which of `targets` a step can connect to.
fn reached(builder: &Builder, targets: &[(&str, u16)]) -> (Vec<String>, String) {
    let tries: Vec<String> = targets
        .iter()
        .map(|(host, port)| {
            format!("if nc -w 5 {host} {port} </dev/null >/dev/null 2>&1; then echo REACHED {host}:{port}; fi")
        })
        .collect();
    let text = format!("FROM @busybox\nRUN {}; echo tried\n", tries.join("; "));
    let outcome = builder.build(&Context::dockerfile(&text)).args("--no-cache").run().success();
    let log = outcome.step("RUN ").log;
    assert!(log.iter().any(|line| line == "tried"), "{log:?}");
    let found = log.iter().filter(|line| line.starts_with("REACHED ")).cloned().collect();
    (found, log.join("\n"))
}

/// Answers everybody on an address of this machine that is not loopback.
fn public_server() -> Option<(String, u16)> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: it only chooses a route.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip().to_string();
    let listener = TcpListener::bind((address.as_str(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 64]);
            stream.write_all(b"answer").ok();
        }
    });
    Some((address, port))
}

#[test]
fn the_gate_is_the_only_way_out() {
    let (own, port) = public_server().expect("this machine needs an address besides loopback");
    let loopback = Server::start(|_| Response::ok("reached"));
    assert_eq!(request("GET", &loopback.url("control"), &[], b"").body, b"reached", "control");
    let builder = Builder::start(&options(&format!("[egress]\nallow = [\"{own}:{port}\"]\n")));
    let (found, log) = reached(
        &builder,
        &[
            (&own, port),
            (&own, port + 1),
            ("127.0.0.1", loopback.port()),
            ("169.254.169.254", 80),
            ("10.0.2.2", 80),
        ],
    );
    assert_eq!(found, [format!("REACHED {own}:{port}")], "{log}");
    // What the gate on the host refused is known to the builder in the guest.
    assert!(log.contains("egress policy refused") && log.contains("169.254.169.254"), "{log}");
    assert_eq!(loopback.seen().len(), 1, "only the control");

    // The machine's process and QEMU have no network, and the machine no device for one.
    let devices = fs::read_to_string(format!("/proc/{}/net/dev", qemu(&builder))).unwrap();
    let devices: Vec<&str> = devices
        .lines()
        .filter_map(|line| line.trim().split_once(':'))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(devices, ["lo"]);
    let line = fs::read(format!("/proc/{}/cmdline", qemu(&builder))).unwrap();
    let line = String::from_utf8_lossy(&line).into_owned();
    for word in ["netdev", "-nic", "virtio-net", "virtfs", "fsdev"] {
        assert!(!line.contains(word), "{word} in {line}");
    }
}

#[test]
fn the_machine_is_no_more_than_its_project() {
    let builder = Builder::start(&options(""));
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(builder.root().join("store")).unwrap());
    assert!(owner >= 1 << 28, "the store belongs to {owner}");
    let status = fs::read_to_string(format!("/proc/{}/status", qemu(&builder))).unwrap();
    let fields: BTreeMap<&str, String> = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect();
    let owner = owner.to_string();
    assert_eq!(fields["Uid"], [owner.as_str(); 4].join(" "));
    for set in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(fields[set], "0000000000000000", "{set}");
    }
    assert_eq!(fields["NoNewPrivs"], "1");
    // A filter for system calls: QEMU's own.
    assert_eq!(fields["Seccomp"], "2");
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    for (name, control) in [("mnt", own), ("user", fs::read_link("/proc/self/ns/user").unwrap())] {
        let theirs = fs::read_link(format!("/proc/{}/ns/{name}", qemu(&builder))).unwrap();
        assert_ne!(theirs, control, "{name}");
    }
}

#[test]
fn nothing_outlives_the_supervisor() {
    let builder = Builder::start(&options(""));
    let machine = qemu(&builder);
    // Fails when any process of the tree survives.
    let _home = builder.kill();
    assert!(!Path::new(&format!("/proc/{machine}/ns/pid")).exists());
}

#[test]
fn the_end_of_the_machine_is_the_end_of_the_builder() {
    let options = options("");
    let builder = Builder::start(&options);
    let machine = rustix::process::Pid::from_raw(qemu(&builder)).unwrap();
    rustix::process::kill_process(machine, rustix::process::Signal::KILL).unwrap();
    let begun = SystemTime::now();
    while !builder.log().contains("the virtual machine ended with signal: 9") {
        assert!(begun.elapsed().unwrap() < Duration::from_secs(10), "{}", builder.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let home = builder.kill();
    // Its disk is as good as that of a machine that lost power.
    let again = Builder::start_in(home, &options);
    let context = Context::dockerfile("FROM @busybox\nRUN echo again\n");
    assert_eq!(again.build(&context).run().success().log("RUN "), "again");
}

#[test]
fn clients_come_over_tcp_too() {
    // Both at once, so that they are two.
    let [free, debug] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [free, debug] = [free, debug].map(|listener| listener.local_addr().unwrap());
    let mut options = options("");
    options.args = ["--addr", &format!("tcp://{free}"), "--debugaddr", &debug.to_string()]
        .map(str::to_owned)
        .to_vec();
    let _builder = Builder::start(&options);
    // What the builder in the machine does is told on the host.
    let told = request("GET", &format!("http://{debug}/debug/"), &[], b"");
    assert_eq!((told.status, told.body.as_slice()), (200, &b"builds: 0\n"[..]));
    let context = Context::dockerfile("FROM @busybox\nRUN echo over tcp\n");
    let build = Build::new(Some(&format!("tcp://{free}")), context.path().to_str().unwrap());
    assert_eq!(build.run().success().log("RUN "), "over tcp");
}

#[test]
fn a_server_takes_builds_to_virtual_machines() {
    need_root();
    let (kernel, modules) = test_kernel();
    // The server's own level stays the weakest: the project asks for more.
    let server_config = format!(
        "[builder.isolation]\nmemory = \"{MEMORY}\"\n[builder.isolation.vm]\naccelerator = \"tcg\"\nkernel = \"{}\"\n\
         modules = \"{}\"\ndisk = \"3GiB\"\n",
        kernel.display(),
        modules.display()
    );
    let server = ApiServer::start_in(Data::new(), &server_config);
    let project = server.project("machines");
    let text = "FROM @busybox\nRUN uname -r; nc -w 3 169.254.169.254 80; true\n";
    let context = Context::dockerfile(text);
    let host = rustix::system::uname().release().to_string_lossy().into_owned();
    let plain = server.build(&project, &context).run().success();
    assert!(plain.log("RUN ").contains(&host), "control: the machine's own kernel");
    let outcome = server.build(&project, &context).args("--isolation vm").run().success();
    assert_eq!(outcome.ran().len(), 1, "another level's cache was used: {}", outcome.stderr);
    assert!(outcome.log("RUN ").contains("cloud-amd64"), "{}", outcome.log("RUN "));
    // What the gate saw for a step in the machine is in the server's records.
    let id = server.newest_id(&project);
    let shown = Command::new(program())
        .args(["builds", "show", "--network", &id])
        .env("COFFERDAM_SERVER", server.url())
        .env("COFFERDAM_TOKEN", server.token())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("169.254.169.254"), "{shown}");
}

/// Starts a builder that is expected to refuse; what it says.
fn refusal(root: &Path, config: &str) -> String {
    need_root();
    let file = root.join("builder.toml");
    fs::write(&file, config).unwrap();
    let output = Command::new(program())
        .args(["builder", "--isolation", "vm", "--root"])
        .arg(root.join("root"))
        .arg("--addr")
        .arg(format!("unix://{}", root.join("socket").display()))
        .arg("--config")
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_cannot_be_had_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    // A kernel that boots nowhere: with or without KVM on this machine, the trial fails.
    let image = dir.path().join("vmlinuz-0");
    fs::write(&image, "no kernel").unwrap();
    let modules = test_kernel().1;
    let named = format!("kernel = \"{}\"\nmodules = \"{}\"\n", image.display(), modules.display());
    let said = refusal(dir.path(), &format!("[isolation.vm]\n{named}"));
    assert!(said.contains("KVM") && said.contains("accelerator = \"tcg\""), "{said}");
    assert!(!dir.path().join("root/store/disk").exists(), "nothing was begun");

    let said =
        refusal(dir.path(), "[isolation.vm]\naccelerator = \"tcg\"\nkernel = \"/nowhere\"\n");
    assert!(said.contains("/nowhere"), "{said}");

    // A kernel that QEMU does not take, at an accelerator that works.
    let said = refusal(
        dir.path(),
        &format!("[isolation.vm]\naccelerator = \"tcg\"\ndisk = \"1GiB\"\n{named}"),
    );
    assert!(said.contains("the virtual machine ended"), "{said}");

    // The store of another level is not a machine's.
    fs::create_dir_all(dir.path().join("root/store/content")).unwrap();
    let said = refusal(dir.path(), &config(""));
    assert!(said.contains("without a virtual machine"), "{said}");
}

#[test]
fn a_firecracker_that_cannot_be_had_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let (kernel, modules) = test_kernel();
    let with = |more: &str| {
        let said = refusal(
            dir.path(),
            &format!(
                "[isolation.vm]\nhypervisor = \"firecracker\"\nkernel = \"{}\"\nmodules = \"{}\"\n{more}\n",
                kernel.display(),
                modules.display()
            ),
        );
        assert!(!dir.path().join("root/store/disk").exists(), "nothing was begun: {said}");
        said
    };
    let program = dir.path().join("firecracker");
    let claims = |version: &str, then: &str| {
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo Firecracker v{version} && exit\n{then}\n"
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        with(&format!("firecracker = \"{}\"", program.display()))
    };
    let said = with("firecracker = \"/nowhere/firecracker\"");
    assert!(said.contains("/nowhere/firecracker"), "{said}");
    let said = claims("1.4.1", "exit 0");
    assert!(said.contains("is Firecracker 1.4.1, and 1.8.0 is the least"), "{said}");
    // One that starts nothing, and one that has no filter of its own.
    let said = claims("1.16.1", "echo the description is wrong; exit 1");
    assert!(said.contains("needs KVM"), "{said}");
    // Programs are tried once the device can be opened, as the builder finds out too; nothing here makes a machine with it.
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        assert!(said.contains("the description is wrong"), "{said}");
        let said = claims("1.16.1", "echo Linux version 6; exec sleep 5");
        assert!(said.contains("without its own filter"), "{said}");
    } else {
        assert!(said.contains("/dev/kvm"), "{said}");
        eprintln!("not tried: a Firecracker that starts, since /dev/kvm cannot be opened");
    }
    // It is never emulated.
    let said = with("accelerator = \"tcg\"");
    assert!(said.contains("hypervisor = \"qemu\""), "{said}");
}

#[test]
fn a_disk_grows_and_bounds_what_builds_can_take() {
    let small = |size: &str| Options { config: config("").replace("3GiB", size), ..options("") };
    let builder = Builder::start(&small("300MiB"));
    let fill = "FROM @busybox\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/big bs=1M count=500 2>&1\n";
    let said = builder.build(&Context::dockerfile(fill)).run().failure();
    // From the kernel, or from the builder that ends a step in time.
    let full = ["No space left on device", "left on the builder's disk"];
    assert!(full.iter().any(|text| said.contains(text)), "{said}");
    assert!(fs::metadata(builder.root().join("store/disk")).unwrap().len() == 300 << 20);
    let again = Builder::start_in(builder.kill(), &small("1GiB"));
    let said =
        again.build(&Context::dockerfile(fill)).args("--no-cache").run().success().log("RUN ");
    assert!(said.contains("500+0 records out"), "{said}");
}
