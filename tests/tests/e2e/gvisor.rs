//! Steps under gVisor: the same layers as without it, by the same network, limits and mounts, and a refusal where there is none.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;

use cofferdam_tests::http::{Response, Server};
use cofferdam_tests::{Builder, Context, Image, Options, need_root, program};

fn builder(level: &str, config: &str) -> Builder {
    need_root();
    Builder::start(&Options {
        config: format!("{config}\n[isolation]\nlevel = \"{level}\"\n"),
        ..Options::default()
    })
}

/// Everything of a layer but times, and the content of files that hold some.
fn content(image: &Image, layer: usize) -> BTreeMap<String, String> {
    let entries = image.layer(layer).into_iter();
    let described = entries.map(|(path, entry)| {
        let timed = path.contains("var/log") || path.ends_with("aux-cache");
        let bytes = if timed { String::new() } else { format!("{:?}", entry.content) };
        let plain = format!(
            "{} {:o} {}:{} {} {:?} {bytes}",
            entry.kind, entry.mode, entry.uid, entry.gid, entry.link, entry.xattrs
        );
        (path, plain)
    });
    described.collect()
}

/// What package managers, languages and people do in steps. Without `ls` and `stat`, which fail under Debian's gVisor of 2022.
const DOCKERFILE: &str = r#"FROM @python
RUN mkdir -p /p/DEBIAN /p/srv/app /p/usr/local/bin && \
    printf 'Package: app\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n' > /p/DEBIAN/control && \
    printf '#!/bin/sh\nset -e\ngroupadd -g 1500 app\nuseradd -u 1500 -g app -M -d /srv/app app\nchown -R app:app /srv/app\nchmod 2770 /srv/app\nchown root:app /usr/local/bin/app\nchmod 4750 /usr/local/bin/app\n' > /p/DEBIAN/postinst && \
    chmod 755 /p/DEBIAN/postinst && echo data > /p/srv/app/data && echo program > /p/usr/local/bin/app && \
    dpkg-deb -b /p /app.deb && dpkg -i /app.deb && dpkg -L app && rm -r /p /app.deb
RUN ln /srv/app/data /srv/hard && ln -s hard /srv/soft && rm /etc/debian_version && rm -r /usr/share/bug && mkdir /usr/share/bug && touch /usr/share/bug/new && mv /srv/app /srv/moved && chown -h 65534:7 /srv/soft && truncate -s 1M /srv/sparse && cp -a /etc/alternatives /srv/copy
RUN --mount=type=secret,id=s,target=/here,uid=1500,mode=0440 find /here -printf '%U:%G %m\n' && sha256sum < /here > /proof
RUN --mount=type=cache,target=/cache,uid=1500 echo cached > /cache/file && chown 7:8 /cache/file
RUN --mount=type=cache,target=/cache,uid=1500 --mount=type=tmpfs,target=/t --mount=type=bind,from=@busybox,target=/bb find /cache/file -printf '%U:%G\n' && echo x > /t/x && /bb/bin/busybox echo bound && ! touch /bb/x 2>/dev/null
RUN echo kept > /tmp/kept && mkdir -m 700 /tmp/dir && cat /proc/sys/kernel/hostname && grep -c . /etc/hosts
WORKDIR /work/dir
USER 1500
ENV A=b
RUN id && pwd && env | sort && umask && echo mine > /tmp/mine && ulimit -c
"#;

#[test]
fn layers_are_those_of_the_other_level() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(b"hush").unwrap();
    let secret = format!("id=s,src={}", file.path().display());
    let built = ["namespaces", "gvisor"].map(|level| {
        let builder = builder(level, "");
        let context = Context::dockerfile(DOCKERFILE);
        let build = builder.build(&context).arg("--secret").arg(&secret);
        let (outcome, image) = build.image_with("");
        let logs: Vec<Vec<String>> =
            outcome.user_steps().into_iter().map(|step| step.log).collect();
        (
            image,
            logs,
            builder
                .build(&Context::dockerfile("FROM @busybox\nRUN cat /proc/version"))
                .run()
                .success()
                .log("RUN "),
        )
    });
    let [(plain, plain_logs, plain_kernel), (sandboxed, sandboxed_logs, sandboxed_kernel)] = built;
    assert_ne!(plain_kernel, sandboxed_kernel, "control: another kernel ran the steps");
    assert_eq!(plain_logs, sandboxed_logs);
    assert_eq!(plain.depth(), sandboxed.depth());
    for layer in 0..plain.depth() {
        let (expected, found) = (content(&plain, layer), content(&sandboxed, layer));
        let differs = |path: &&String| expected.get(*path) != found.get(*path);
        let paths: Vec<&String> = expected.keys().chain(found.keys()).filter(differs).collect();
        assert!(
            paths.is_empty(),
            "layer {layer}: {:?}",
            paths
                .iter()
                .map(|path| (path, expected.get(*path), found.get(*path)))
                .collect::<Vec<_>>()
        );
    }
    assert_eq!(sandboxed.files()["srv/moved/data"].uid, 1500);
}

#[test]
fn the_gate_is_the_only_way_out() {
    // An address of this machine that others reach it by.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this machine needs an address besides loopback");
    let own = socket.local_addr().unwrap().ip().to_string();
    let listener = std::net::TcpListener::bind((own.as_str(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = vec![b'x'; 3 << 20];
    std::thread::spawn(move || {
        use std::io::Read;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").ok();
            stream.write_all(&body).ok();
        }
    });
    let loopback = Server::start(|_| Response::ok("reached"));
    let fetch = |url: String| {
        format!(
            "python3 -c \"import urllib.request as r; print('got', len(r.urlopen('{url}', timeout=5).read()))\" 2>&1 || echo refused"
        )
    };
    let context = Context::dockerfile(&format!(
        "FROM @python\nRUN {}\nRUN {}\nRUN --network=none {}\n",
        fetch(format!("http://{own}:{port}/")),
        fetch(loopback.url("x")),
        fetch(format!("http://{own}:{port}/none")),
    ));
    let open = builder("gvisor", &format!("[egress]\nallow = [\"{own}:{port}\"]\n"));
    let outcome = open.build(&context).run().success();
    let steps = outcome.user_steps();
    let told = |line: &&String| line.starts_with("got") || *line == "refused";
    let ends: Vec<&String> = steps.iter().filter_map(|step| step.log.iter().rfind(told)).collect();
    assert_eq!(ends, ["got 3145728", "refused", "refused"]);
    assert!(loopback.seen().is_empty());
}

#[test]
fn a_step_has_so_much_memory_with_all_that_serves_it() {
    let builder = builder("gvisor", "[limits]\nstep.memory = \"192MiB\"\n");
    let step = |size: &str| {
        let text = format!("FROM @busybox\nRUN dd if=/dev/zero of=/dev/null bs={size} count=1\n");
        builder.build(&Context::dockerfile(&text)).run()
    };
    let error = step("400M").failure();
    assert!(error.contains("the step ran out of memory and was killed"), "{error}");
    let _ = step("32M").success();
}

#[test]
fn failures_are_those_of_the_other_level() {
    let failures = ["namespaces", "gvisor"].map(|level| {
        let builder = builder(level, "");
        [
            "[\"sh\", \"-c\", \"exit 7\"]",
            "[\"absent\"]",
            "[\"/etc/passwd\"]",
            "[\"sh\", \"-c\", \"exit 128\"]",
        ]
        .map(|command| {
            let text = format!("FROM @busybox\nRUN {command}\n");
            let said = builder.build(&Context::dockerfile(&text)).run().failure();
            said.lines().last().unwrap().to_owned()
        })
    });
    assert_eq!(failures[0], failures[1]);
    assert!(failures[0][1].contains("executable file not found"), "{:?}", failures[0]);
}

#[test]
fn without_runsc_there_is_no_builder() {
    need_root();
    let dir = tempfile::tempdir().unwrap();
    let start = |hide: &str| {
        Command::new("unshare")
            .args(["--mount", "sh", "-c", &format!("{hide} exec timeout -s TERM 5 \"$@\""), "sh"])
            .arg(program())
            .args(["builder", "--isolation", "gvisor", "--root"])
            .arg(dir.path().join("root"))
            .arg("--addr")
            .arg(format!("unix://{}", dir.path().join("s").display()))
            .output()
            .unwrap()
    };
    let refused = start("mount --bind /dev/null /usr/bin/runsc &&");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    for word in ["runsc", "gvisor", "apt-get install runsc"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let broken = start("mount --bind /bin/false /usr/bin/runsc &&");
    let said = String::from_utf8_lossy(&broken.stderr).into_owned();
    assert!(!broken.status.success() && said.contains("/usr/bin/runsc --version"), "{said}");
    // Control: with it, the same command serves until it is told to stop.
    let served = start("");
    let said = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(!said.contains("apt-get install runsc"), "{said}");
}
