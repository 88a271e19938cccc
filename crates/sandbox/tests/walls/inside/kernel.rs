//! How much of the kernel a step can reach.

use std::collections::HashMap;
use std::sync::Arc;

use cofferdam_sandbox::{Network, STEP_ADDRESS, Security, User};

use super::cases;
use crate::bench::{Bench, bind};

pub(super) const CASES: &[(&str, super::Case)] = cases![
    "kernel":
    calls_are_denied,
    calls_work_without_the_filter,
    sockets_are_denied,
    other_processes_are_out_of_reach,
    nested_namespaces_are_forbidden,
    set_user_id_gains_only_container_root,
    no_network_is_loopback_only,
    gate_network_has_one_device,
    networks_are_given_once,
    host_network_is_the_builders,
    host_network_reaches_the_builder,
    abstract_sockets_stop_at_the_namespace,
    insecure_has_capabilities_of_its_own_namespace_only,
    devices_cannot_be_made,
];

pub(super) fn results(output: &str) -> HashMap<&str, &str> {
    output.lines().filter_map(|line| line.split_once(' ')).collect()
}

async fn calls_are_denied(bench: Arc<Bench>) {
    for uid in [0, 1000] {
        let mut spec = bench.probe(&["calls"]);
        spec.user = User { uid, gid: uid, groups: vec![] };
        let output = bench.run(spec).await;
        assert!(output.exit.success(), "{:?} {}", output.exit, output.stderr);
        let results = results(&output.stdout);
        assert!(results.len() > 30);
        for (name, result) in results {
            let expected = match name {
                "clone3" | "unknown" => &["ENOSYS"][..],
                // Allowed, so that programs can confine themselves; the kernel may not have it.
                "landlock" => &["done", "errno 95", "ENOSYS"],
                _ => &["EPERM"],
            };
            assert!(expected.contains(&result), "{name}: {result}");
        }
    }
}

/// Control: without the filter some of the same calls get further, so it is the filter that answers.
async fn calls_work_without_the_filter(bench: Arc<Bench>) {
    let mut spec = bench.probe(&["calls"]);
    spec.security = Security::Insecure;
    let output = bench.run(spec).await;
    let results = results(&output.stdout);
    for name in ["fsopen", "unshare-user", "keyctl", "name_to_handle_at"] {
        assert_ne!(results[name], "EPERM", "{name}");
    }
    assert_ne!(results["clone3"], "ENOSYS");
}

async fn sockets_are_denied(bench: Arc<Bench>) {
    let output = bench.run(bench.probe(&["sockets"])).await;
    let results = results(&output.stdout);
    for name in ["unix", "inet", "route", "ping"] {
        assert_eq!(results[name], "done", "{name}");
    }
    for name in ["netfilter", "xfrm", "packet", "alg", "vsock", "key", "rxrpc", "raw", "tipc-pair"]
    {
        assert_eq!(results[name], "EPERM", "{name}");
    }
    assert_eq!(results["audit"], "EPROTONOSUPPORT");
    let mut spec = bench.probe(&["sockets"]);
    spec.security = Security::Insecure;
    let output = bench.run(spec).await;
    assert_eq!(self::results(&output.stdout)["xfrm"], "done", "control");
}

async fn other_processes_are_out_of_reach(bench: Arc<Bench>) {
    let output = bench.run(bench.probe(&["parent"])).await;
    assert_eq!(output.stdout, "end of processes\n");
    if bench.under_gvisor() {
        // The links of other processes cannot be read there, or lead to what the step sees anyway.
        let output = bench.output("readlink /proc/1/root; readlink /proc/1/cwd; true").await;
        assert!(output.lines().all(|line| line == "/"), "{output}");
        return;
    }
    let output = bench.output("readlink /proc/1/exe; ls -l /proc/1/root /proc/1/cwd").await;
    assert!(output.starts_with("/bin/busybox\n"), "{output}");
}

async fn nested_namespaces_are_forbidden(bench: Arc<Bench>) {
    let output = bench
        .run(bench.script("unshare -U true; echo $?; cat /proc/sys/user/max_user_namespaces"))
        .await;
    assert_eq!(output.stdout, "1\n0\n");
}

async fn set_user_id_gains_only_container_root(bench: Arc<Bench>) {
    let fill = |layer: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(layer.join("opt")).unwrap();
        // Not busybox, which gives privileges up by itself.
        std::fs::copy(crate::bench::PROBE, layer.join("opt/id")).unwrap();
        std::fs::set_permissions(layer.join("opt/id"), std::fs::Permissions::from_mode(0o755))
            .unwrap();
    };
    let root = bench.root_on(fill);
    // Set the bit from inside: giving the file away has cleared it.
    let output = bench.run(bench.spec(&root, &["chmod", "4755", "/opt/id"])).await;
    assert!(output.exit.success());
    let effect = bench.gvisor.as_ref().is_none_or(|runsc| runsc.knows_set_user_id());
    for (forbid, expected) in [(false, if effect { "0\n" } else { "1000\n" }), (true, "1000\n")] {
        let mut spec = bench.spec(&root, &["/opt/id", "probe", "identity"]);
        spec.mounts.push(bind("/usr", "/usr", true));
        spec.user = User { uid: 1000, gid: 1000, groups: vec![] };
        spec.no_new_privileges = forbid;
        assert_eq!(bench.run(spec).await.stdout, expected);
    }
}

async fn no_network_is_loopback_only(bench: Arc<Bench>) {
    let output = bench
        .output("cut -d: -f1 /proc/net/dev | sed 1,2d | tr -d ' '; wc -l < /proc/net/route")
        .await;
    assert_eq!(output, "lo\n1\n");
    for uid in [0, 1000] {
        let mut spec = bench.probe(&["ping", "127.0.0.1"]);
        spec.user = User { uid, gid: uid, groups: vec![] };
        assert_eq!(bench.run(spec).await.stdout, "sent done\nanswered true\n");
    }
    let output = bench.run(bench.script("ifconfig lo down")).await;
    assert!(!output.exit.success(), "a step has power over its network");
}

async fn gate_network_has_one_device(bench: Arc<Bench>) {
    let mut spec = bench.script("cut -d: -f1 /proc/net/dev | sed 1,2d | tr -d ' ' | sort; ifconfig eth0; route -n; ifconfig eth0 mtu 1000 && echo power; true");
    spec.network = Network::Gate;
    let (mut running, stdout, _stderr) = bench.start(spec).await.unwrap();
    let tun = running.take_tun().expect("a device");
    let exit = running.wait().await.unwrap();
    let mut bytes = vec![0; 1 << 16];
    let length = rustix::io::read(&stdout, &mut bytes).unwrap();
    let output = String::from_utf8_lossy(&bytes[..length]).into_owned();
    assert!(exit.success(), "{output}");
    assert!(output.starts_with("eth0\nlo\n"), "{output}");
    // gVisor answers less of what ifconfig asks.
    let shown =
        output.contains(&format!("inet addr:{STEP_ADDRESS}")) && output.contains("MTU:65520");
    assert!(shown || bench.under_gvisor(), "{output}");
    assert!(output.contains("0.0.0.0         10.206.0.1"), "{output}");
    assert!(!output.contains("power") && !output.contains("inet6"), "{output}");
    drop(tun);
    // Under gVisor there are no echo requests on the builder's kind of network.
    let (mut spec, protocol) = if bench.under_gvisor() {
        (bench.script("nc -w 1 192.0.2.1 9; true"), 6)
    } else {
        (bench.probe(&["ping", "192.0.2.1"]), 1)
    };
    spec.network = Network::Gate;
    let (mut running, _stdout, _stderr) = bench.start(spec).await.unwrap();
    let tun = running.take_tun().expect("a device");
    assert!(running.wait().await.unwrap().success());
    // The packet is waiting on our side, and it is the first one.
    let mut packet = [0; 2048];
    let length = rustix::io::read(&tun, &mut packet).unwrap();
    assert!(length >= 28);
    assert_eq!((packet[0] >> 4, packet[9]), (4, protocol));
    assert_eq!(
        (&packet[12..16], &packet[16..20]),
        (&STEP_ADDRESS.octets()[..], &[192, 0, 2, 1][..])
    );
}

/// Networks are made ahead of steps. While a device is open its namespace is there, and its name is nobody else's.
async fn networks_are_given_once(bench: Arc<Bench>) {
    let mut known = Vec::new();
    for round in 0..4 {
        let mut steps = Vec::new();
        // The first ones one by one, the last at once: more than there are helpers with something ready.
        for _ in 0..if round < 3 { 1 } else { 6 } {
            let mut spec = bench.script("readlink /proc/self/ns/net; grep -c eth0 /proc/net/dev");
            spec.network = Network::Gate;
            let (mut running, stdout, _stderr) = bench.start(spec).await.unwrap();
            let tun = running.take_tun().expect("a device");
            steps.push((running, stdout, tun));
        }
        for (mut running, stdout, tun) in steps {
            assert!(running.wait().await.unwrap().success());
            let mut bytes = [0; 256];
            let length = rustix::io::read(&stdout, &mut bytes).unwrap();
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let (name, devices) = said.split_once('\n').unwrap();
            assert_eq!(devices, "1\n");
            known.push((name.to_owned(), tun));
        }
        let mut spec = bench.script("readlink /proc/self/ns/net");
        spec.network = Network::Host;
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        assert_eq!(bench.run(spec).await.stdout.trim(), own.to_str().unwrap());
        known.iter().for_each(|(name, _)| assert_ne!(name, own.to_str().unwrap()));
    }
    let mut names: Vec<_> = known.iter().map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 9, "{names:?}");
}

async fn host_network_is_the_builders(bench: Arc<Bench>) {
    let mut spec = bench.script("readlink /proc/self/ns/net");
    spec.network = Network::Host;
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(bench.run(spec).await.stdout.trim(), own.to_str().unwrap());
    assert_ne!(bench.output("readlink /proc/self/ns/net").await.trim(), own.to_str().unwrap());
}

async fn host_network_reaches_the_builder(bench: Arc<Bench>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // A client that is let in is let go at once.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let script = format!("nc -w 2 127.0.0.1 {port} </dev/null && echo reached; true");
    for (network, expected) in
        [(Network::None, ""), (Network::Gate, ""), (Network::Host, "reached\n")]
    {
        let mut spec = bench.script(&script);
        spec.network = network;
        assert_eq!(bench.run(spec).await.stdout, expected, "{network:?}");
    }
}

async fn abstract_sockets_stop_at_the_namespace(bench: Arc<Bench>) {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("cofferdam-canary-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    for (network, expected) in
        [(Network::None, "abstract refused\n"), (Network::Host, "abstract done\n")]
    {
        // Unix sockets are the sentry's own whatever the network.
        let expected = if bench.under_gvisor() { "abstract refused\n" } else { expected };
        let mut spec = bench.probe(&["abstract", &name]);
        spec.network = network;
        assert_eq!(bench.run(spec).await.stdout, expected, "{network:?}");
    }
}

async fn insecure_has_capabilities_of_its_own_namespace_only(bench: Arc<Bench>) {
    if bench.under_gvisor() {
        return super::gvisor::insecure_has_capabilities_of_the_sentry_only(bench).await;
    }
    let mut spec = bench.script("grep -E '^(CapEff|Seccomp:)' /proc/self/status; mount -t tmpfs x /tmp && echo mounted; mount -o remount,rw /sys && echo power; mknod /tmp/sda b 8 0 && echo device; cat /proc/self/uid_map");
    spec.security = Security::Insecure;
    let output = bench.run(spec).await.stdout;
    assert!(output.contains("CapEff:\t000001ff"), "{output}");
    assert!(output.contains("Seccomp:\t0"), "{output}");
    assert!(output.contains("mounted"), "{output}");
    assert!(!output.contains("power") && !output.contains("device"), "{output}");
}

async fn devices_cannot_be_made(bench: Arc<Bench>) {
    if bench.under_gvisor() {
        return super::gvisor::devices_are_of_no_use(bench).await;
    }
    let output = bench
        .run(bench.script(
            "mknod /tmp/kmsg c 1 11; mknod /dev/kmsg c 1 11; mknod /dev/shm/mem c 1 1; ls /dev",
        ))
        .await;
    assert_eq!(output.stderr.matches("not permitted").count(), 3, "{}", output.stderr);
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(output.stdout.split_whitespace().collect::<Vec<_>>().join(" "), expected);
}
