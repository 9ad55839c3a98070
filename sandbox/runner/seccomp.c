/* System-call filters, written as plain BPF so that nothing needs linking.
 *
 * An allow-list: what is not named fails with ENOSYS, so that a program finds its fallback, and a
 * system call of tomorrow is closed today. It is installed once, on the runner, and inherited: the
 * kernel then caches the answer per system call, and a run pays nothing. Only where the runner itself
 * needs more than a program may have (clone3 into a cgroup, namespaces of an ordinary user's box) does
 * the child install a filter of its own before exec.
 *
 * Closed on purpose, besides administration: ptrace and process_vm_* (other processes' memory),
 * SysV IPC, POSIX queues and keyrings (they outlive processes), user namespaces, bpf, perf,
 * io_uring, userfaultfd (kernel attack surface), sync (it stalls the host's disks), every socket family but UNIX and IP (AF_VSOCK and
 * AF_NETLINK reach beyond the network namespace).
 */
#include "runner.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the system-call list is known for x86-64 and aarch64 only"
#endif

#define NEW_NAMESPACES                                                                             \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |             \
	 CLONE_NEWPID | CLONE_NEWNET)

static const int allowed[] = {
	/* files */
	SYS_read, SYS_write, SYS_close, SYS_fstat, SYS_lseek, SYS_pread64, SYS_pwrite64, SYS_readv,
	SYS_writev, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2, SYS_openat, SYS_openat2,
	SYS_newfstatat, SYS_statx, SYS_faccessat, SYS_faccessat2, SYS_readlinkat, SYS_unlinkat,
	SYS_mkdirat, SYS_renameat, SYS_renameat2, SYS_linkat, SYS_symlinkat, SYS_mknodat,
	SYS_fchmodat, SYS_fchmod, SYS_fchownat, SYS_fchown, SYS_utimensat, SYS_getdents64,
	SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_truncate, SYS_ftruncate, SYS_fallocate, SYS_fsync,
	SYS_fdatasync, SYS_sync_file_range, SYS_statfs, SYS_fstatfs, SYS_umask,
	SYS_flock, SYS_fcntl, SYS_dup, SYS_dup3, SYS_pipe2, SYS_splice, SYS_tee, SYS_vmsplice,
	SYS_sendfile, SYS_copy_file_range, SYS_readahead, SYS_fadvise64, SYS_close_range,
	SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_listxattr, SYS_llistxattr, SYS_flistxattr,
	SYS_memfd_create, SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
	/* waiting */
	SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait,
	SYS_epoll_pwait2, SYS_eventfd2, SYS_signalfd4, SYS_timerfd_create, SYS_timerfd_settime,
	SYS_timerfd_gettime,
	/* memory */
	SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_mincore, SYS_msync,
	SYS_mlock, SYS_mlock2, SYS_munlock, SYS_mlockall, SYS_munlockall, SYS_pkey_alloc,
	SYS_pkey_free, SYS_pkey_mprotect, SYS_membarrier, SYS_get_mempolicy,
	/* processes, threads, signals */
	SYS_clone, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid,
	SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigpending,
	SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_rt_sigreturn, SYS_rt_sigsuspend,
	SYS_rt_sigtimedwait, SYS_sigaltstack, SYS_restart_syscall, SYS_set_tid_address,
	SYS_set_robust_list, SYS_get_robust_list, SYS_futex, SYS_rseq, SYS_gettid, SYS_getpid,
	SYS_getppid, SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid, SYS_pidfd_open,
	SYS_pidfd_send_signal, SYS_prctl, SYS_getpriority, SYS_setpriority, SYS_sched_yield,
	SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_getparam, SYS_sched_setparam,
	SYS_sched_getscheduler, SYS_sched_setscheduler, SYS_sched_get_priority_max,
	SYS_sched_get_priority_min, SYS_sched_rr_get_interval, SYS_sched_getattr, SYS_sched_setattr,
	SYS_ioprio_get, SYS_ioprio_set, SYS_getcpu, SYS_getrlimit, SYS_setrlimit, SYS_prlimit64,
	SYS_getrusage, SYS_times,
	/* identity: without privileges these can only give rights away */
	SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getresuid, SYS_getresgid,
	SYS_getgroups, SYS_setgroups, SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid,
	SYS_setresuid, SYS_setresgid, SYS_setfsuid, SYS_setfsgid, SYS_capget, SYS_capset,
	/* time */
	SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday,
	SYS_getitimer, SYS_setitimer, SYS_timer_create, SYS_timer_settime, SYS_timer_gettime,
	SYS_timer_getoverrun, SYS_timer_delete,
	/* sockets, inside a network namespace that leads nowhere (families: see below) */
	SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_connect, SYS_getsockname,
	SYS_getpeername, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg,
	SYS_recvmmsg, SYS_shutdown, SYS_setsockopt, SYS_getsockopt,
	/* the rest */
	SYS_getrandom, SYS_uname, SYS_sysinfo, SYS_ioctl,
#if defined(__x86_64__)
	SYS_open, SYS_creat, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_unlink, SYS_mkdir,
	SYS_rmdir, SYS_rename, SYS_link, SYS_symlink, SYS_mknod, SYS_chmod, SYS_chown, SYS_lchown,
	SYS_utime, SYS_utimes, SYS_futimesat, SYS_getdents, SYS_dup2, SYS_pipe, SYS_poll, SYS_select,
	SYS_epoll_create, SYS_epoll_wait, SYS_eventfd, SYS_signalfd, SYS_inotify_init, SYS_fork,
	SYS_vfork, SYS_getpgrp, SYS_pause, SYS_alarm, SYS_arch_prctl, SYS_time,
#endif
};

#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define REFUSE(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define SKIP_UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, (skip))
#define SKIP_IF(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (skip), 0)

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define PROGRAM_MAX (2 * COUNT(allowed) + 64)

struct program {
	struct sock_filter code[PROGRAM_MAX];
	unsigned short size;
};

static void append(struct program *program, const struct sock_filter *code, size_t count)
{
	for (size_t i = 0; i < count; i++)
		program->code[program->size++] = code[i];
}

#define APPEND(program, ...)                                                                       \
	append(program, (const struct sock_filter[]){ __VA_ARGS__ },                               \
	       COUNT(((const struct sock_filter[]){ __VA_ARGS__ })))

/* Both filters begin so: the right architecture, and no clone into new namespaces. */
static void append_start(struct program *program)
{
	APPEND(program, LOAD(arch), SKIP_IF(ARCHITECTURE, 1),
	       BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS), LOAD(nr));
	/* The flags of clone are its first argument on both architectures. */
	APPEND(program, SKIP_UNLESS(SYS_clone, 5), LOAD(args[0]),
	       BPF_STMT(BPF_ALU | BPF_AND | BPF_K, NEW_NAMESPACES), SKIP_UNLESS(0, 1), ALLOW,
	       REFUSE(EPERM));
}

static void append_full(struct program *program, bool with_clone3, bool with_ip)
{
	/* clone3 hides its flags behind a pointer: libc falls back to clone on ENOSYS. */
	if (with_clone3)
		APPEND(program, SKIP_UNLESS(SYS_clone3, 1), ALLOW);
	/* UNIX and IP sockets only, and pairs of the UNIX kind. A container's loopback is up, and what
	 * a run leaves there (a port in TIME_WAIT) would be a message to the next: no IP there at all. */
	int ip = with_ip ? AF_INET : AF_UNIX, ip6 = with_ip ? AF_INET6 : AF_UNIX;
	APPEND(program, SKIP_UNLESS(SYS_socket, 8), LOAD(args[0]), SKIP_UNLESS(AF_UNIX, 1), ALLOW,
	       SKIP_UNLESS((unsigned)ip, 1), ALLOW, SKIP_IF((unsigned)ip6, 1), REFUSE(EAFNOSUPPORT),
	       ALLOW);
	APPEND(program, SKIP_UNLESS(SYS_socketpair, 4), LOAD(args[0]), SKIP_UNLESS(AF_UNIX, 1),
	       ALLOW, REFUSE(EAFNOSUPPORT));
	/* personality: asking is fine, changing (READ_IMPLIES_EXEC, no ASLR) is not. */
	APPEND(program, SKIP_UNLESS(SYS_personality, 4), LOAD(args[0]),
	       SKIP_UNLESS(0xffffffff, 1), ALLOW, REFUSE(EPERM));
	for (size_t i = 0; i < COUNT(allowed); i++)
		APPEND(program, SKIP_UNLESS((unsigned)allowed[i], 1), ALLOW);
	APPEND(program, REFUSE(ENOSYS));
}

static void append_no_namespaces(struct program *program)
{
	APPEND(program, SKIP_UNLESS(SYS_clone3, 1), REFUSE(ENOSYS), ALLOW);
}

int seccomp_install(enum filter filter, bool with_ip)
{
	struct program program = { .size = 0 };
	append_start(&program);
	if (filter == FILTER_NO_NAMESPACES)
		append_no_namespaces(&program);
	else
		append_full(&program, filter == FILTER_FULL_WITH_CLONE3, with_ip);
	struct sock_fprog prog = { .len = program.size, .filter = program.code };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return errno;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) ? errno : 0;
}
