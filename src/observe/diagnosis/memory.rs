//! The memory of the process.

/// The memory of the process, as the system counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Memory {
    /// Bytes in physical memory now.
    pub resident: u64,
    /// The maximum of `resident` since the process started.
    pub peak: u64,
}

impl Memory {
    /// The memory of this process now. `None` except on Linux.
    ///
    /// # Examples
    ///
    /// ```
    /// if let Some(memory) = fairpool::diagnosis::Memory::now() {
    ///     assert!(memory.resident > 0);
    /// }
    /// ```
    pub fn now() -> Option<Memory> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        Memory::parse(&std::fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(status: &str) -> Option<Memory> {
        let bytes = |name: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kilobytes = rest.trim().strip_suffix("kB")?.trim_end();
            kilobytes.parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let status = "Name:\tx\nVmPeak:\t  9999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(Memory::parse(status), Some(Memory { resident: 1 << 20, peak: 2 << 20 }));
        assert_eq!(Memory::parse("Name:\tkthread\n"), None);
        assert_eq!(Memory::parse("VmRSS:\tmuch kB\nVmHWM:\t1 kB"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_some() {
        let memory = Memory::now().expect("/proc/self/status");
        assert!(memory.resident >= 1 << 16, "{memory:?}");
        assert!(memory.peak >= 1 << 16, "{memory:?}");
    }
}
