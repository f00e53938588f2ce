//! How a server's memory is paged.
//!
//! The allocator asks for huge pages where the system grants them. A fault on one clears two
//! megabytes before a thread goes on, and a server whose buffers grow and shrink with large values
//! faults all the time: on a virtual machine that is milliseconds each, on threads that everybody
//! waits for. Small pages cost those who read small values a few percent.
//!
//! What is absent: programs that embed an engine; their memory is theirs.

/// Has this process use pages of the usual size from now on.
pub fn use_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay allowed");
    }
}
