//! Facts about the machine or container that the configuration may refer to.
//!
//! Read at load only. Deliberately absent: following changes of a limit while running.

use std::num::NonZero;
use std::path::{Path, PathBuf};

/// CPUs this process may use: affinity and cgroup quota are heeded.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Memory this process may use, in bytes: the tightest limit of its cgroups (version 2 or 1), at
/// most the memory of the machine. `None` when none of it can be read.
pub fn memory_bytes_max() -> Option<u64> {
    memory_below(Path::new("/"))
}

fn memory_below(root: &Path) -> Option<u64> {
    let limits = cgroup_limits(root);
    limits.into_iter().chain(machine_memory(root)).min()
}

fn machine_memory(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The limits of the own cgroup and of all above it, as far as they can be seen.
fn cgroup_limits(root: &Path) -> Vec<u64> {
    let membership = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut limits = Vec::new();
    for line in membership.lines() {
        // hierarchy:controllers:path
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (mount, file) = if controllers.is_empty() {
            (root.join("sys/fs/cgroup"), "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        limits.extend(limits_up(&mount, path, file));
    }
    limits
}

/// Up to and including the mount point: in a container without a cgroup namespace the named path
/// does not exist and the mount point is the own group.
fn limits_up(mount: &Path, path: &str, file: &str) -> Vec<u64> {
    let group: PathBuf = mount.join(path.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|folder| folder.starts_with(mount))
        .filter_map(|folder| std::fs::read_to_string(folder.join(file)).ok())
        // "max", the word for no limit, is no number.
        .filter_map(|text| text.trim().parse().ok())
        .filter(|limit| *limit > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn machine() -> Folder {
        let root = Folder::new();
        root.write("proc/meminfo", "MemFree: 1 kB\nMemTotal:       8388608 kB\n");
        root
    }

    #[test]
    fn this_machine_has_cpus_and_memory() {
        assert!(cpus() >= 1);
        assert!(memory_bytes_max().is_some_and(|bytes| bytes > MIB));
    }

    #[test]
    fn without_a_limit_it_is_the_memory_of_the_machine() {
        let root = machine();
        root.write("proc/self/cgroup", "0::/app\n");
        root.write("sys/fs/cgroup/app/memory.max", "max\n");
        assert_eq!(memory_below(root.path()), Some(8192 * MIB));
        assert_eq!(memory_below(Folder::new().path()), None);
    }

    #[test]
    fn the_tightest_limit_of_the_groups_above_counts() {
        let root = machine();
        root.write("proc/self/cgroup", "0::/slice/app\n");
        root.write("sys/fs/cgroup/slice/app/memory.max", "536870912\n");
        root.write("sys/fs/cgroup/slice/memory.max", "268435456\n");
        assert_eq!(memory_below(root.path()), Some(256 * MIB));
    }

    #[test]
    fn version_1_is_read_at_the_mount_point_when_the_path_is_hidden() {
        let root = machine();
        root.write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n");
        root.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n");
        assert_eq!(memory_below(root.path()), Some(128 * MIB));
        root.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory_below(root.path()), Some(8192 * MIB));
    }
}
