#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::expand::{ExpandError, Expander};
use crate::lines::Lines;
use crate::lint::Warnings;

fn file(text: &str) -> Dockerfile {
    parse(text.as_bytes(), &mut Warnings::default()).unwrap()
}

fn command(line: &str) -> Command {
    file(&format!("FROM a\n{line}")).stages.remove(0).instructions.remove(0).command
}

fn error(line: &str) -> String {
    let text = format!("FROM a\n{line}");
    let error = parse(text.as_bytes(), &mut Warnings::default()).unwrap_err();
    assert_eq!(error.lines(), Some(Lines::single(2)), "{line}");
    error.to_string().strip_prefix("dockerfile parse error on line 2: ").unwrap().to_owned()
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn stages_and_global_arguments() {
    let file = file(
        "# v the version\nARG v=1\nFROM --platform=$BUILDPLATFORM a:$v As Base.1\nRUN x\n# next does it\nFROM base.1 AS next\nARG z\n",
    );
    assert_eq!(file.global_args.len(), 1);
    let Command::Arg(pairs) = &file.global_args[0].command else { panic!() };
    assert_eq!((pairs[0].key.as_str(), pairs[0].value.as_deref()), ("v", Some("1")));
    assert_eq!(pairs[0].description, "the version");
    let [first, second] = file.stages.as_slice() else { panic!() };
    assert_eq!(first.name.as_deref(), Some("base.1"));
    assert_eq!((first.base.as_str(), first.platform.as_str()), ("a:$v", "$BUILDPLATFORM"));
    assert_eq!(first.text, "FROM --platform=$BUILDPLATFORM a:$v As Base.1");
    assert_eq!(second.description, "does it");
    assert_eq!(second.lines, Lines::single(6));
    assert_eq!(second.instructions[0].text, "ARG z");
}

#[test]
fn command_lines() {
    let shell = |text: &str| CommandLine { words: owned(&[text]), shell: true, files: vec![] };
    assert_eq!(command("CMD a  b \\\n c"), Command::Cmd(shell("a  b  c")));
    assert_eq!(command("CMD [\"a\", ]"), Command::Cmd(shell("[\"a\", ]")));
    let exec = CommandLine { words: owned(&["a", "b c"]), shell: false, files: vec![] };
    assert_eq!(command("ENTRYPOINT [\"a\", \"b c\"]"), Command::Entrypoint(exec));
    assert_eq!(command("ENTRYPOINT []"), Command::Entrypoint(CommandLine::default()));
    let Command::Run(run) =
        command("run --network=none --mount=type=bind --mount=from=x <<-EOF\n\ta\n\tEOF\n")
    else {
        panic!()
    };
    assert_eq!(run.command.words, ["<<-EOF"]);
    let file = InlineFile { name: "EOF".to_owned(), data: "\ta\n".to_owned(), strip_tabs: true };
    assert_eq!(run.command.files, [file]);
    assert_eq!(run.network, Network::None);
    assert_eq!(run.flags_used, ["network", "mount"]);
    assert_eq!(run.mounts.iter().map(|mount| mount.from.as_str()).collect::<Vec<_>>(), ["", "x"]);
}

#[test]
fn copy_and_add() {
    let Command::Copy(copy) = command(
        "COPY --from=b --link --parents=false --chown=1:2 --chmod=u=rw --exclude=x --exclude=y a <<E \"<<-'F'\" d/\n$x\nE",
    ) else {
        panic!()
    };
    assert_eq!(copy.sources.paths, ["a", "\"<<-'F'\""]);
    assert_eq!(copy.sources.destination, "d/");
    assert_eq!(
        copy.sources.inline,
        [InlineSource { name: "E".to_owned(), data: "$x\n".to_owned(), expand: true }]
    );
    assert_eq!(
        (copy.from.as_str(), copy.chown.as_str(), copy.chmod.as_str()),
        ("b", "1:2", "u=rw")
    );
    assert!(copy.link && !copy.parents);
    assert_eq!(copy.exclude, ["x", "y"]);
    let Command::Add(add) =
        command("ADD --unpack=false --keep-git-dir --checksum=c <<-'E' x /y\n\ta\nE")
    else {
        panic!()
    };
    assert_eq!(
        (add.unpack, add.keep_git_dir, add.checksum.as_str()),
        (Some(false), Some(true), "c")
    );
    assert_eq!(
        add.sources.inline,
        [InlineSource { name: "E".to_owned(), data: "a\n".to_owned(), expand: false }]
    );
    let Command::Copy(copy) = command("COPY [\"a b\", \"<<E\", \"c\"]") else { panic!() };
    assert_eq!((copy.sources.paths, copy.sources.inline.len()), (owned(&["a b"]), 1));
}

#[test]
fn small_instructions() {
    let Command::Env(pairs) = command("ENV a=b \"c\"='d e'") else { panic!() };
    assert_eq!(
        pairs[1],
        KeyValue { key: "\"c\"".to_owned(), value: "'d e'".to_owned(), legacy: false }
    );
    let Command::Label(pairs) = command("LABEL a b c") else { panic!() };
    assert_eq!(pairs, [KeyValue { key: "a".to_owned(), value: "b c".to_owned(), legacy: true }]);
    assert_eq!(command("EXPOSE 90 80/tcp"), Command::Expose(owned(&["80/tcp", "90"])));
    assert_eq!(command("VOLUME [\" /a \", \"/b\"]"), Command::Volume(owned(&["/a", "/b"])));
    assert_eq!(command("VOLUME /a /b"), Command::Volume(owned(&["/a", "/b"])));
    assert_eq!(command("WORKDIR  /a b "), Command::Workdir("/a b".to_owned()));
    assert_eq!(command("USER me:us"), Command::User("me:us".to_owned()));
    assert_eq!(command("STOPSIGNAL SIGKILL"), Command::Stopsignal("SIGKILL".to_owned()));
    assert_eq!(command("MAINTAINER me <a@b>"), Command::Maintainer("me <a@b>".to_owned()));
    assert_eq!(command("SHELL [\"a\", \"-c\"]"), Command::Shell(owned(&["a", "-c"])));
}

#[test]
fn healthchecks() {
    let health = |line: &str| match command(line) {
        Command::Healthcheck(health) => health,
        other => panic!("{other:?}"),
    };
    assert_eq!(health("HEALTHCHECK none").test, ["NONE"]);
    let full = health(
        "HEALTHCHECK --interval=5m --timeout=3s --start-period=1ms --start-interval=0s --retries=4 CMD a  b || c",
    );
    assert_eq!(full.test, ["CMD-SHELL", "a  b || c"]);
    assert_eq!((full.interval, full.timeout), (Duration::from_secs(300), Duration::from_secs(3)));
    assert_eq!(
        (full.start_period, full.start_interval),
        (Duration::from_millis(1), Duration::ZERO)
    );
    assert_eq!(full.retries, 4);
    assert_eq!(health("HEALTHCHECK CMD [\"a\", \"b\"]").test, ["CMD", "a", "b"]);
}

#[test]
fn triggers() {
    assert_eq!(command("onbuild  RUN a  b"), Command::Onbuild("RUN a  b".to_owned()));
    let Command::Onbuild(text) = command("ONBUILD COPY <<A <<-B /x\n1\nA\n\t2\n\tB") else {
        panic!()
    };
    assert_eq!(text, "COPY <<A <<-B /x\n1\nA\n\t2\nB");
    let lines = Lines::single(7);
    let trigger = parse_trigger(&text, lines).unwrap();
    let Command::Copy(copy) = trigger.command else { panic!() };
    assert_eq!(copy.sources.inline[1].data, "2\n");
    assert_eq!(trigger.lines, lines);
    for bad in ["RUN a\nRUN b", "FROM a"] {
        assert_eq!(
            parse_trigger(bad, lines).unwrap_err().to_string(),
            "onbuild trigger should be a single expression"
        );
    }
    assert!(parse_trigger("", lines).is_err());
    assert!(parse_trigger("RUNN a", lines).unwrap_err().to_string().contains("did you mean RUN?"));
}

#[test]
fn instruction_errors() {
    let table = [
        ("FROMM a", "unknown instruction: FROMM (did you mean FROM?)"),
        ("coppy a b", "unknown instruction: coppy (did you mean copy?)"),
        ("BUMBLE a", "unknown instruction: BUMBLE"),
        ("RUN --mont=a b", "unknown flag: --mont (did you mean mount?)"),
        ("RUN --x b", "unknown flag: --x"),
        ("CMD --x b", "unknown flag: --x"),
        ("COPY --from=a --from=b x y", "duplicate flag specified: --from"),
        ("COPY --from x y", "missing a value on flag: --from"),
        ("COPY --link= x y", "missing a value on flag: --link"),
        ("COPY --link=yes x y", "expecting boolean value for flag --link, not: yes"),
        ("RUN --network=x y", "invalid network mode \"x\""),
        ("RUN --security=x y", "security \"x\" is not valid"),
        (
            "RUN --mount=type=bind,from=$x y",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
        (
            "COPY a",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        ("ENV", "ENV requires at least one argument"),
        ("ENV =a", "ENV names can not be blank"),
        ("ARG", "ARG requires at least one argument"),
        ("ARG =a", "ARG names can not be blank"),
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a b c", "FROM requires either one or three arguments"),
        (
            "FROM a AS 1x",
            "invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
        ),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD onbuild RUN a", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD from a", "FROM isn't allowed as an ONBUILD trigger"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("SHELL sh -c", "SHELL requires the arguments to be in JSON form"),
        ("SHELL []", "SHELL requires at least one argument"),
        ("VOLUME [\" \"]", "VOLUME specified can not be an empty string"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK foo x", "Unknown type \"FOO\" in HEALTHCHECK (try CMD)"),
        ("HEALTHCHECK --interval=1us CMD x", "Interval \"interval\" cannot be less than 1ms"),
        ("HEALTHCHECK --timeout=-1s CMD x", "Interval \"timeout\" cannot be less than 1ms"),
        ("HEALTHCHECK --timeout=5 CMD x", "time: missing unit in duration \"5\""),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)"),
    ];
    for (line, expected) in table {
        assert_eq!(error(line), expected, "{line}");
    }
    let heredoc = parse(b"FROM a\nADD a <<E\nE", &mut Warnings::default()).unwrap_err();
    assert_eq!(heredoc.lines(), Some(Lines::new(2, 3)));
    assert!(heredoc.to_string().ends_with("ADD cannot accept a heredoc as a destination"));
    let before = parse(b"RUN a\nFROM b", &mut Warnings::default()).unwrap_err();
    assert_eq!(before.to_string(), "no build stage in current context");
    let none = parse(b"ARG a", &mut Warnings::default()).unwrap_err();
    assert_eq!(none.to_string(), "dockerfile contains no stages to build");
}

fn mounts(flag: &str) -> Result<Vec<Mount>, String> {
    let text = format!("FROM a\nRUN --mount={flag} x");
    let mut file =
        parse(text.as_bytes(), &mut Warnings::default()).map_err(|error| error.to_string())?;
    let variables = std::collections::BTreeMap::from([("t".to_owned(), "cache".to_owned())]);
    let expander = Expander::new('\\');
    let instruction = &mut file.stages[0].instructions[0];
    instruction
        .expand(&mut |word| expander.expand(word, &variables).map(|expanded| expanded.text))
        .map_err(|error| error.to_string())?;
    match &instruction.command {
        Command::Run(run) => Ok(run.mounts.clone()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn mount_options() {
    let mount = |flag: &str| mounts(flag).unwrap().remove(0);
    assert_eq!(
        mount("target=/x"),
        Mount { target: "/x".to_owned(), readonly: true, ..Mount::default() }
    );
    let cache = mount("type=$t,dst=/c,SHARING=Locked,id=i,mode=0755,uid=1,gid=2,from=b,src=/s");
    assert_eq!(
        (cache.kind, cache.sharing, cache.readonly),
        (MountKind::Cache, Some(MountSharing::Locked), false)
    );
    assert_eq!((cache.mode, cache.uid, cache.gid), (Some(0o755), Some(1), Some(2)));
    assert_eq!((cache.id.as_str(), cache.from.as_str(), cache.source.as_str()), ("i", "b", "/s"));
    assert_eq!(mount("type=tmpfs,target=/t,size=2k").size, 2048);
    assert!(!mount("target=/x,rw").readonly);
    assert!(mount("type=cache,target=/x,ro=true").readonly);
    assert!(mount("type=cache,target=/x,rw=0").readonly);
    let secret = mount("type=secret,id=s,env=TOKEN,required");
    assert_eq!((secret.env.as_deref(), secret.required), (Some("TOKEN"), true));
    assert!(mount("type=ssh,required=1").required);
}

#[test]
fn mount_errors() {
    let table = [
        ("type=tmp,target=/x", "unsupported mount type \"tmp\" (did you mean tmpfs?)"),
        ("typ=cache", "unexpected key 'typ' in 'typ=cache' (did you mean type?)"),
        ("type=cache,sharing=lock", "unsupported sharing value \"lock\" (did you mean locked?)"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("type=bind,required", "unexpected key 'required' for mount type 'bind'"),
        ("type=bind,size=1", "unexpected key 'size' for mount type 'bind'"),
        ("type=tmpfs,size=x", "invalid value for size: x"),
        ("ro=maybe", "invalid value for ro: maybe"),
        ("type=cache,mode=9", "invalid value 9 for mode"),
        ("type=cache,uid=-1", "invalid value -1 for uid"),
        ("type=bind,uid=1", "uid not allowed for \"bind\" type mounts"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,src=b", "both source and id can't be set"),
        ("type=secret,id=a,from=b", "secret mount should not have a from"),
        ("type=ssh,sharing=shared", "invalid cache sharing set for ssh mount"),
        ("target=${x:?no}", "failed to process \"${x:?no}\": x: no"),
        (
            "type=bind,from=$x",
            "dockerfile parse error on line 2: 'from' doesn't support variable expansion, define alias stage instead",
        ),
    ];
    for (flag, expected) in table {
        assert_eq!(mounts(flag).unwrap_err(), expected, "{flag}");
    }
}

#[test]
fn devices() {
    let devices = |flag: &str| match command(&format!("RUN --device={flag} x")) {
        Command::Run(run) => run.devices,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        devices("vendor.com/a=b,required")[0],
        Device { name: "vendor.com/a=b".to_owned(), required: true }
    );
    assert_eq!(
        devices("name=a,required=false")[0],
        Device { name: "a".to_owned(), required: false }
    );
    assert_eq!(
        error("RUN --device=a,requird=1 x"),
        "unexpected key 'requird' in 'requird=1' (did you mean required?)"
    );
    assert_eq!(error("RUN --device=a,b x"), "invalid field 'b' must be a key=value pair");
    assert_eq!(error("RUN --device=a,name=b x"), "device name already set to a");
}

#[test]
fn expansion_touches_the_right_words() {
    let text = "FROM a\nENV $k=\"$v\" x\\\n=y\nCOPY --from=$k --chown=$v --exclude=$k $k <<E $v/\n'$k'\nE\nEXPOSE $k\nCMD $k\n\
                VOLUME $k $v\nWORKDIR $v\nADD --checksum=$k <<'E' $k /\n$k\nE\n";
    let mut file = file(text);
    let variables = std::collections::BTreeMap::from(
        [("k", "K"), ("v", "V")].map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    let expander = Expander::new('\\');
    let body = expander.clone().literal_quotes();
    let mut word =
        |word: &str| -> Result<String, ExpandError> { Ok(expander.expand(word, &variables)?.text) };
    let mut inline =
        |word: &str| -> Result<String, ExpandError> { Ok(body.expand(word, &variables)?.text) };
    let instructions = &mut file.stages[0].instructions;
    for instruction in instructions.iter_mut() {
        instruction.expand(&mut word).unwrap();
        instruction.expand_inline(&mut inline).unwrap();
    }
    let commands: Vec<_> = instructions.iter().map(|instruction| &instruction.command).collect();
    let Command::Env(pairs) = commands[0] else { panic!() };
    assert_eq!(
        (pairs[0].key.as_str(), pairs[0].value.as_str(), pairs[1].value.as_str()),
        ("K", "V", "y")
    );
    let Command::Copy(copy) = commands[1] else { panic!() };
    assert_eq!(
        (copy.from.as_str(), copy.chown.as_str(), copy.exclude[0].as_str()),
        ("$k", "V", "$k")
    );
    assert_eq!(
        (&copy.sources.paths[0], &copy.sources.destination),
        (&"K".to_owned(), &"V/".to_owned())
    );
    assert_eq!(copy.sources.inline[0].data, "'K'\n");
    assert_eq!(*commands[2], Command::Expose(owned(&["$k"])));
    assert!(matches!(commands[3], Command::Cmd(line) if line.words == ["$k"]));
    assert_eq!(*commands[4], Command::Volume(owned(&["K", "V"])));
    assert_eq!(*commands[5], Command::Workdir("V".to_owned()));
    let Command::Add(add) = commands[6] else { panic!() };
    assert_eq!((add.checksum.as_str(), add.sources.inline[0].data.as_str()), ("K", "$k\n"));
}

#[test]
fn too_many_stages() {
    let text = "FROM a\n".repeat(1_001);
    let error = parse(text.as_bytes(), &mut Warnings::default()).unwrap_err();
    assert_eq!(error.to_string(), "dockerfile has more than 1000 stages");
}
