"""The kernel's wider interfaces are closed: administration, tracing, what outlives processes."""

from __future__ import annotations

import pytest

from box_stage import OWNER, QUICK, Stage

# Each call would do something if it were let through; none asks for what any program may have.
CALLS = {
    "mount": 'SYS_mount, "none", "/tmp", "tmpfs", 0, 0',
    "remount": 'SYS_mount, "none", "/", "", MS_REMOUNT | MS_BIND, 0',
    "umount2": 'SYS_umount2, "/proc", MNT_DETACH',
    "pivot_root": 'SYS_pivot_root, "/tmp", "/tmp"',
    "chroot": 'SYS_chroot, "/tmp"',
    "open_tree": 'SYS_open_tree, AT_FDCWD, "/", 1',
    "fsopen": 'SYS_fsopen, "tmpfs", 0',
    "mount_setattr": 'SYS_mount_setattr, AT_FDCWD, "/", 0, zeros, 32',
    "unshare user": "SYS_unshare, CLONE_NEWUSER",
    "unshare files": "SYS_unshare, CLONE_FILES",
    "setns": "SYS_setns, 0, 0",
    "clone user": "SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0",
    "clone net": "SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0",
    "clone pid": "SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0",
    "clone mount": "SYS_clone, CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0",
    "clone cgroup": "SYS_clone, CLONE_NEWCGROUP | SIGCHLD, 0, 0, 0, 0",
    "clone3": "SYS_clone3, zeros, 64",
    "ptrace traceme": "SYS_ptrace, PTRACE_TRACEME, 0, 0, 0",
    "ptrace seize": "SYS_ptrace, PTRACE_SEIZE, getppid(), 0, 0",
    "process_vm_readv": "SYS_process_vm_readv, getpid(), zeros, 0, zeros, 0, 0",
    "pidfd_getfd": "SYS_pidfd_getfd, syscall(SYS_pidfd_open, getpid(), 0), 0, 0",
    "kcmp": "SYS_kcmp, getpid(), getpid(), 0, 0, 0",
    "bpf": "SYS_bpf, 0, zeros, 64",
    "perf_event_open": "SYS_perf_event_open, zeros, 0, -1, -1, 0",
    "userfaultfd": "SYS_userfaultfd, 1",
    "io_uring_setup": "SYS_io_uring_setup, 4, zeros",
    "io_setup": "SYS_io_setup, 4, zeros",
    "keyctl": "SYS_keyctl, 0, -3, 1",
    "add_key": 'SYS_add_key, "user", "name", "value", 5, -5',
    "request_key": 'SYS_request_key, "user", "name", 0, -5',
    "shmget": "SYS_shmget, 4711, 4096, IPC_CREAT | 0666",
    "semget": "SYS_semget, 4711, 1, IPC_CREAT | 0666",
    "msgget": "SYS_msgget, 4711, IPC_CREAT | 0666",
    "mq_open": 'SYS_mq_open, "queue", O_CREAT | O_RDWR, 0666, 0',
    "personality": "SYS_personality, 0x0040000",
    "settimeofday": "SYS_settimeofday, zeros, 0",
    "clock_settime": "SYS_clock_settime, 0, zeros",
    "clock_adjtime": "SYS_clock_adjtime, 0, zeros",
    "sethostname": 'SYS_sethostname, "mine", 4',
    "setdomainname": 'SYS_setdomainname, "mine", 4',
    "reboot": "SYS_reboot, 0xfee1dead, 672274793, 0x4321fedc, 0",
    "kexec_load": "SYS_kexec_load, 0, 0, zeros, 0",
    "init_module": 'SYS_init_module, zeros, 64, ""',
    "delete_module": 'SYS_delete_module, "loop", 0',
    "swapon": 'SYS_swapon, "/tmp/swap", 0',
    "acct": 'SYS_acct, "/tmp/acct"',
    "quotactl": 'SYS_quotactl, 0x800007 << 8, "/", 0, zeros',
    "syslog": "SYS_syslog, 3, zeros, 64",
    "fanotify_init": "SYS_fanotify_init, 0x200, 0",
    "name_to_handle_at": 'SYS_name_to_handle_at, AT_FDCWD, "/", zeros, zeros + 512, 0',
    "open_by_handle_at": "SYS_open_by_handle_at, AT_FDCWD, zeros, 0",
    "setxattr": 'SYS_setxattr, "/tmp", "user.a", "b", 1, 0',
    "vhangup": "SYS_vhangup",
    "setuid 0": "SYS_setuid, 0",
    "setresgid 0": "SYS_setresgid, 0, 0, 0",
    "setgroups": "SYS_setgroups, 1, zeros",
    "chown to root": 'SYS_chown, "/tmp", 0, 0',
    "mknod": 'SYS_mknod, "/tmp/disk", 0060666, 0x0800',
    "x32": "0x40000000 | 39",
    "no such call": "100000",
}

PROGRAM = """
    #include <errno.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/ipc.h>
    #include <sys/mount.h>
    #include <sys/ptrace.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static char zeros[1024];
    int main(int count, char **words) {
        errno = 0;
        CALLS
        printf("%s", errno ? strerrorname_np(errno) : "granted");
    }
""".replace(
    "CALLS",
    "\n        ".join(
        f'if (!strcmp(words[1], "{name}")) syscall({call});' for name, call in CALLS.items()
    ),
)


@pytest.mark.parametrize("name", CALLS)
def test_a_privileged_system_call_is_refused(stage: Stage, name: str) -> None:
    outcome = stage.c(PROGRAM, name)
    assert outcome.exit_code == 0
    # EINVAL: an ordinary user's box does not even know the user that is asked for.
    assert outcome.stdout in {b"EPERM", b"ENOSYS", b"EACCES"} | ({b"EINVAL"} if OWNER else set())


def test_system_calls_of_the_32_bit_kind_kill(stage: Stage) -> None:
    outcome = stage.c(
        """
        #include <stdio.h>
        int main(void) {
            long number = 20; /* getpid */
            __asm__ volatile("int $0x80" : "+a"(number) : : "memory");
            printf("%ld", number);
        }
        """
    )
    assert outcome.stdout == b""
    assert outcome.signal in {31, 11}  # SIGSYS; or a kernel without them


def test_set_user_id_programs_give_nothing(stage: Stage) -> None:
    outcome = stage.python(
        """
        import os, stat
        paths = [os.path.join(folder, name) for folder in ("/usr/bin", "/usr/sbin")
                 for name in os.listdir(folder)]
        found = [path for path in paths if os.lstat(path).st_mode & stat.S_ISUID]
        for program in found:
            pid = os.fork()
            if not pid:
                os.dup2(os.open("/dev/null", os.O_RDWR), 1)
                os.execv(program, [program, "--help"])
            try:
                print(program, "uid", os.stat(f"/proc/{pid}").st_uid != 0)
            except FileNotFoundError:
                pass
            os.waitpid(pid, 0)
        print(not found or os.statvfs("/usr/bin").f_flag & os.ST_NOSUID != 0, "ends")
        status = open("/proc/self/status").read()
        print("NoNewPrivs:\\t1" in status, "CapEff:\\t0000000000000000" in status)
        """
    )
    lines = outcome.stdout.decode().split("\n")
    assert "True ends" in lines
    assert "True True" in lines
    assert not [line for line in lines if line.endswith("False")]


def test_a_set_user_id_program_of_its_own_gives_nothing(stage: Stage) -> None:
    show = '#include <stdio.h>\nint main(void) { printf("%d", geteuid() == getuid()); }'
    run = stage.prepare(show)
    outcome = stage.python(
        """
        import os, shutil, subprocess, sys
        shutil.copy(sys.argv[1], "/tmp/mine")
        os.chmod("/tmp/mine", 0o6755)
        print(subprocess.run(["/tmp/mine"], capture_output=True).stdout.decode())
        """,
        run.argv[0],
    )
    assert outcome.stdout == b"1\n"


def test_no_terminal_takes_input_that_a_program_types(stage: Stage) -> None:
    outcome = stage.python(
        """
        import fcntl, os, termios
        for fd in (0, 1, 2):
            try:
                fcntl.ioctl(fd, termios.TIOCSTI, b"x")
                print("typed")
            except OSError:
                pass
        try:
            os.open("/dev/tty", os.O_RDWR)
            print("a terminal")
        except OSError:
            pass
        """
    )
    assert (outcome.exit_code, outcome.stdout) == (0, b"")


def test_settings_of_the_kernel_cannot_be_written(stage: Stage) -> None:
    outcome = stage.python(
        """
        import os
        found = 0
        for folder, _, names in os.walk("/proc/sys"):
            for name in names:
                found += 1
                try:
                    os.close(os.open(os.path.join(folder, name), os.O_WRONLY))
                    print(folder, name)
                except OSError:
                    pass
        assert found > 10
        for path in ("/proc/sysrq-trigger", "/proc/mtrr", "/proc/irq/default_smp_affinity",
                     "/proc/latency_stats"):
            try:
                if os.stat(path).st_rdev == os.stat("/dev/null").st_rdev:
                    continue  # masked
                os.close(os.open(path, os.O_WRONLY))
                print(path)
            except OSError:
                pass
        """
    )
    assert (outcome.exit_code, outcome.stdout) == (0, b""), outcome.stderr


def test_only_harmless_devices_are_there(stage: Stage) -> None:
    listed = set(stage.sh("ls /dev").stdout.decode().split())
    allowed = {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "fd",
        "stdin",
        "stdout",
        "stderr",
        "shm",
    }
    if stage.in_container:  # an engine's /dev: without a terminal, and empty folders
        allowed |= {"tty", "ptmx", "pts", "mqueue", "core"}
        assert stage.sh("cat /dev/core").stdout == b""  # a link to /proc/kcore, which is masked
        assert stage.sh("find /dev/pts /dev/mqueue").stdout.split() == [b"/dev/pts", b"/dev/mqueue"]
        assert stage.sh("exec 3</dev/tty").exit_code
        assert stage.sh("exec 3</dev/ptmx").exit_code
    assert {"null", "urandom", "shm"} <= listed <= allowed


def test_no_process_lives_on_in_what_it_was_refused(stage: Stage) -> None:
    """A program that only makes system calls that are not there does not harm its box."""
    storm = """
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(void) {
            for (;;) for (int i = 0; i < 600; i++)
                if (i != SYS_exit && i != SYS_exit_group && i != SYS_pause && i != SYS_fork
                    && i != SYS_vfork && i != SYS_clone && i != SYS_rt_sigsuspend && i != SYS_read)
                    syscall(i, 0, 0, 0, 0, 0, 0);
        }
    """
    outcome = stage.c(storm, limits=QUICK)
    assert outcome.exit_code is None or outcome.exit_code >= 0
    assert stage.is_usable()
