//! What every case inside the enclosure uses: roots made of busybox, steps run to their end, their output.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use cofferdam_sandbox::{
    Entered, Exit, LaunchError, Launcher, Mount, MountSource, Running, Runsc, Spec, detached_bind,
    make_skeleton,
};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

/// Where the outside puts this very program.
pub(crate) const PROBE: &str = "/probe";

pub(crate) struct Bench {
    pub(crate) launcher: Launcher,
    pub(crate) entered: Entered,
    /// What steps run under, when it is gVisor.
    pub(crate) gvisor: Option<Runsc>,
    next: AtomicU32,
}

/// A root for one step: an overlay on busybox.
pub(crate) struct Root {
    pub(crate) upper: PathBuf,
    lower: PathBuf,
    work: PathBuf,
    skeleton: Option<PathBuf>,
}

pub(crate) struct Output {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new(launcher: Launcher, entered: Entered, gvisor: Option<Runsc>) -> Self {
        let bench = Self { launcher, entered, gvisor, next: AtomicU32::new(0) };
        bench.make_base();
        bench
    }

    pub(crate) fn under_gvisor(&self) -> bool {
        self.gvisor.is_some()
    }

    /// What is in the command line of a process of a step that runs `sleep mark`.
    pub(crate) fn mark<'a>(&self, mark: &'a str) -> &'a str {
        if self.under_gvisor() { "runsc-sandbox" } else { mark }
    }

    /// A busybox root, owned by the steps' root.
    fn make_base(&self) {
        let base = self.base();
        if base.exists() {
            return;
        }
        for dir in ["bin", "etc", "tmp", "root", "usr", "home/app"] {
            fs::create_dir_all(base.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        for tool in [
            "sh", "cat", "id", "ls", "true", "false", "echo", "mount", "umount", "sleep", "touch",
            "mkdir", "rm", "grep", "env", "pwd", "head", "test", "ps", "kill", "stat", "ln",
            "hostname", "wget", "ifconfig", "ping", "chown", "su", "mknod", "dd", "chmod",
            "readlink", "wc", "nc", "sort", "ulimit", "route", "unshare", "nproc", "sed", "tr",
            "cut",
        ] {
            symlink("busybox", base.join("bin").join(tool)).unwrap();
        }
        for (link, target) in [("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            symlink(target, base.join(link)).unwrap();
        }
        fs::set_permissions(base.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
            .unwrap();
        fs::write(
            base.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .unwrap();
        fs::write(base.join("etc/group"), "root:x:0:\napp:x:1000:\n").unwrap();
        self.own(&base);
    }

    fn base(&self) -> PathBuf {
        self.entered.store.join("base")
    }

    /// Gives a tree to the steps' root.
    pub(crate) fn own(&self, path: &Path) {
        let first = self.entered.ids.first;
        lchown(path, Some(first), Some(first)).unwrap();
        if path.symlink_metadata().unwrap().is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                self.own(&entry.unwrap().path());
            }
        }
    }

    /// A new directory in the store.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.entered.store.join(format!("{name}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return path,
                // Made by an earlier builder on the same store.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn root(&self) -> Root {
        self.root_on(|_| {})
    }

    /// A root that has every mount point already.
    pub(crate) fn prepared_root(&self) -> Root {
        let skeleton = self.entered.store.join("skeleton");
        if fs::create_dir(&skeleton).is_ok() {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(CWD, &skeleton, flags, Mode::empty()).unwrap();
            make_skeleton(dir, self.entered.ids).unwrap();
        }
        Root { skeleton: Some(skeleton), ..self.root() }
    }

    /// A root on a layer of its own above busybox, filled by `fill`.
    pub(crate) fn root_on(&self, fill: impl FnOnce(&Path)) -> Root {
        let dir = self.directory("root");
        for name in ["layer", "upper", "work"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        fill(&dir.join("layer"));
        self.own(&dir);
        Root {
            upper: dir.join("upper"),
            lower: dir.join("layer"),
            work: dir.join("work"),
            skeleton: None,
        }
    }

    pub(crate) fn mount(&self, root: &Root) -> OwnedFd {
        // What an earlier volatile mount of this root left to be noticed by.
        fs::remove_dir_all(root.work.join("work/incompat")).ok();
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        let mut lower = format!("{}:{}", root.lower.display(), self.base().display());
        if let Some(skeleton) = &root.skeleton {
            lower.push(':');
            lower.push_str(skeleton.to_str().unwrap());
        }
        fsconfig_set_string(&context, "lowerdir", lower).unwrap();
        fsconfig_set_string(&context, "upperdir", &root.upper).unwrap();
        fsconfig_set_string(&context, "workdir", &root.work).unwrap();
        fsconfig_set_flag(&context, "userxattr").unwrap();
        // Otherwise every unmount writes the whole file system below to disk, which is what would be measured.
        fsconfig_set_flag(&context, "volatile").unwrap();
        fsconfig_create(&context).unwrap();
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV).unwrap()
    }

    pub(crate) fn spec(&self, root: &Root, args: &[&str]) -> Spec {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Spec::new("case", self.mount(root), args)
    }

    /// A step that runs a shell script in a root of its own.
    pub(crate) fn script(&self, script: &str) -> Spec {
        self.spec(&self.root(), &["sh", "-c", script])
    }

    /// A step that runs this program as `probe`.
    pub(crate) fn probe(&self, args: &[&str]) -> Spec {
        let mut all = vec![PROBE, "probe"];
        all.extend(args);
        let mut spec = self.spec(&self.root(), &all);
        for path in [PROBE, "/usr"] {
            spec.mounts.push(bind(path, path, true));
        }
        spec
    }

    pub(crate) async fn start(
        &self,
        spec: Spec,
    ) -> Result<(Running, OwnedFd, OwnedFd), LaunchError> {
        let (stdout, stdout_in) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (stderr, stderr_in) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let running = self.launcher.run(spec, stdout_in, stderr_in, None).await?;
        Ok((running, stdout, stderr))
    }

    pub(crate) async fn try_run(&self, spec: Spec) -> Result<Output, LaunchError> {
        let (mut running, stdout, stderr) = self.start(spec).await?;
        let read = |fd: OwnedFd| tokio::task::spawn_blocking(move || read_all(fd));
        let (stdout, stderr) = (read(stdout), read(stderr));
        let exit = running.wait().await?;
        Ok(Output { exit, stdout: stdout.await.unwrap(), stderr: stderr.await.unwrap() })
    }

    pub(crate) async fn run(&self, spec: Spec) -> Output {
        self.try_run(spec).await.unwrap()
    }

    /// Runs a script that must succeed, for its output.
    pub(crate) async fn output(&self, script: &str) -> String {
        let output = self.run(self.script(script)).await;
        assert!(output.exit.success(), "{script}: {:?} {}", output.exit, output.stderr);
        output.stdout
    }
}

/// A mount of part of the builder's own tree.
pub(crate) fn bind(source: impl AsRef<Path>, dest: &str, readonly: bool) -> Mount {
    let source =
        rustix::fs::openat(CWD, source.as_ref(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .unwrap();
    let source = MountSource::Fd(detached_bind(source, true).unwrap());
    Mount { dest: dest.to_owned(), source, readonly }
}

fn read_all(fd: OwnedFd) -> String {
    let mut bytes = Vec::new();
    fs::File::from(fd).read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every path below `dir`, sorted, with what it is.
pub(crate) fn listing(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            found.push(format!("{} {:?}", entry.path().strip_prefix(dir).unwrap().display(), kind));
            if kind.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
