//! A disk that is full: room grows from nothing, so that the build fails at one write after the other, and at last succeeds.

use cofferdam_tests::strace::store_of;
use cofferdam_tests::{Builder, Disk, Options, need_root};

use crate::shared::{FULL, attempt, context, intact, one_error, same, tidy, undisturbed};

/// Enough for everything that is built here, several times.
const SIZE: &str = "128m";

/// Builds with ever more room until there is enough. Gives how often there was not.
fn grow(least: u64, most_at_once: u64, seed: u64, leave: impl Fn(&Disk, u64)) -> usize {
    let context = context(seed);
    let wanted = undisturbed(&context);
    let options = Options { disk: Some(SIZE), ..Options::default() };
    let builder = Builder::start(&options);
    let (pid, _) = store_of(builder.pid());
    let disk = Disk::at(builder.root().parent().unwrap());
    let mut failures = 0;
    let mut room = 0;
    loop {
        leave(&disk, room);
        match attempt(&builder, &context, "") {
            Ok(image) => {
                assert_eq!(image.digest, wanted, "with {room} left");
                break;
            }
            Err(stderr) => one_error(&stderr, FULL),
        }
        failures += 1;
        assert!(failures < 60, "not even {room} are enough");
        room += (room / 2).clamp(least, most_at_once);
    }
    disk.release();
    same(&builder, &context, "--no-cache", &wanted);
    tidy(&builder);
    assert_eq!(store_of(builder.pid()).0, pid, "it is the same builder");
    let builder = Builder::start_in(intact(builder), &options);
    same(&builder, &context, "", &wanted);
    drop(builder);
    failures
}

#[test]
fn any_byte_of_a_build_may_be_one_too_many() {
    need_root();
    let failures = grow(16 << 10, 1 << 20, 100, Disk::leave_bytes);
    assert!(failures >= 5, "control: the disk was full {failures} times");
}

#[test]
fn any_file_of_a_build_may_be_one_too_many() {
    need_root();
    let failures = grow(2, 400, 200, Disk::leave_files);
    assert!(failures >= 5, "control: the disk was full {failures} times");
}
