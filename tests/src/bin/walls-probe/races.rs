//! The fast half of races: something that is replaced over and over while another step, or the builder, uses it.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::say;

/// Exchanges the directory `path` with a link to `target` as fast as it can; says how often.
pub(crate) fn swap(path: &str, target: &str, seconds: f64) {
    let link = format!("{path}.link");
    std::fs::create_dir_all(path).unwrap();
    std::fs::remove_file(&link).ok();
    symlink(target, &link).unwrap();
    let (one, other) = (CString::new(path).unwrap(), CString::new(link).unwrap());
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut count = 0_u64;
    while Instant::now() < until {
        let done = unsafe {
            libc::renameat2(
                libc::AT_FDCWD,
                one.as_ptr(),
                libc::AT_FDCWD,
                other.as_ptr(),
                libc::RENAME_EXCHANGE,
            )
        };
        if done != 0 {
            // A kernel without the exchange: two renames leave a moment without either.
            let aside = CString::new(format!("{path}.aside")).unwrap();
            unsafe {
                libc::rename(one.as_ptr(), aside.as_ptr());
                libc::rename(other.as_ptr(), one.as_ptr());
                libc::rename(aside.as_ptr(), other.as_ptr());
            }
        }
        count += 1;
    }
    println!("swapped {count}");
}

/// Tries to take what masks are made of away while files that are masked are read.
pub(crate) fn masks(seconds: f64) {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut seen = 0_u64;
    let mut removed = 0_u64;
    while Instant::now() < until {
        for path in ["/dev/null", "/dev/full"] {
            removed += u64::from(std::fs::rename(path, "/dev/walls").is_ok());
            removed += u64::from(std::fs::remove_file(path).is_ok());
            removed += u64::from(symlink("/proc/sys/kernel/core_pattern", path).is_ok());
        }
        for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
            let mut bytes = [0; 16];
            seen += File::open(path).and_then(|mut file| file.read(&mut bytes)).unwrap_or(0) as u64;
        }
    }
    say(
        "masks-raced",
        seen > 0,
        &format!("{seen} bytes of masked files, {removed} changes of /dev"),
    );
}
