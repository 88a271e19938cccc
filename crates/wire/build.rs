//! Compiles `proto/` with protox (no `protoc` to install) and generates messages,
//! service traits and clients with `connectrpc-build`.

use std::path::{Path, PathBuf};

fn collect(dir: &Path, root: &Path, out: &mut Vec<String>) -> std::io::Result<()> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, root, out)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            out.push(path.strip_prefix(root).unwrap_or(&path).display().to_string());
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manifest_dir = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let proto = manifest_dir.join("../../proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    let mut files = Vec::new();
    collect(&proto, &proto, &mut files)?;

    let descriptors = protox::compile(&files, [&proto])?;
    let set = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(&set, protox::prost::Message::encode_to_vec(&descriptors))?;

    connectrpc_build::Config::new()
        .files(&files)
        .descriptor_set(&set)
        .include_file("wire.rs")
        .compile()?;
    Ok(())
}
