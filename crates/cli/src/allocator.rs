//! What of freed memory the C library keeps for itself.
//!
//! glibc gives threads heaps of their own ("arenas"), up to eight a core, and each keeps what was freed in it. A node has many
//! threads that read and write the disk now and then, with buffers of up to megabytes: their heaps came to half as much again as
//! what was in use.

/// Has all threads that are started from now on share so many heaps, unless the environment says how many.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn bound_arenas(count: usize) {
    let is_tuned = std::env::var("GLIBC_TUNABLES").is_ok_and(|set| set.contains("arena_max"));
    if is_tuned || std::env::var_os("MALLOC_ARENA_MAX").is_some() {
        return;
    }
    let count = count.clamp(2, 1024) as libc::c_int;
    #[expect(unsafe_code, reason = "nobody has a safe call for it")]
    // SAFETY: `mallopt` takes two numbers and may be called at any time; what it does not know it refuses.
    let was_set = unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
    debug_assert_eq!(was_set, 1, "the number of arenas is known to all versions from 2.10 on");
}

/// Other C libraries have no such heaps.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn bound_arenas(_count: usize) {}
