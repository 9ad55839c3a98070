/* Starting a program: what happens between the clone and the exec, in the child. */
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct spawn_report *spawn_report;

static const struct config *config;
static uint64_t core_limit;

/* A limit of 0 stops core files, but not a host's crash handler behind a pipe, which would run for
 * every crashing program; 1 is the one value by which the kernel skips it. See core(5). */
static uint64_t find_core_limit(void)
{
	char pattern = 0;
	int file = open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC);
	ssize_t got = file < 0 ? -1 : read(file, &pattern, 1);
	if (file >= 0)
		close(file);
	return got == 1 && pattern == '|' ? 1 : 0;
}

void spawn_start(const struct config *given)
{
	config = given;
	core_limit = find_core_limit();
	/* A shared page, because a child has memory of its own. */
	spawn_report = mmap(NULL, sizeof *spawn_report, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (spawn_report == MAP_FAILED)
		die("cannot prepare for runs");
	if (config->seccomp && !config->rootless) {
		enum filter filter = account_clone_fd() < 0 ? FILTER_FULL : FILTER_FULL_WITH_CLONE3;
		errno = seccomp_install(filter, !config->container);
		if (errno)
			die("cannot install the system-call filter");
	}
}

/* Standard input as a file that can be read from its start and not be changed. */
static int seal_input(int file)
{
	int seals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
	if (lseek(file, 0, SEEK_SET) || fcntl(file, F_ADD_SEALS, seals))
		die("cannot seal standard input");
	return file;
}

static int make_input(void)
{
	return memfd_create("stdin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

/* Closes without touching errno; returns -1, for a caller that has failed. */
static int close_quietly(int file)
{
	int error = errno;
	close(file);
	errno = error;
	return -1;
}

/* In an ordinary user's box a run owns the file and could open it again to write: it gets a copy. */
static int copy_input(int file)
{
	ssize_t sent;
	int copy = make_input();
	if (copy < 0)
		return -1;
	while ((sent = sendfile(copy, file, NULL, 1 << 30)) > 0)
		;
	return sent < 0 ? close_quietly(copy) : seal_input(copy);
}

int spawn_open_stdin(void)
{
	if (request.stdin_path) {
		int file = files_open_input(request.stdin_path);
		if (file < 0 || !config->rootless)
			return file;
		int copy = copy_input(file);
		close_quietly(file);
		return copy;
	}
	if (!request.size)
		return open("/dev/null", O_RDONLY | O_CLOEXEC); /* its flags and locks are the run's own */
	int file = make_input();
	const uint8_t *bytes = request.bytes;
	for (size_t left = request.size; file >= 0 && left;) {
		ssize_t written = write(file, bytes, left);
		if (written < 0 && errno != EINTR)
			return close_quietly(file);
		if (written > 0) {
			bytes += written;
			left -= (size_t)written;
		}
	}
	return file < 0 ? file : seal_input(file);
}

_Noreturn static void fail(const char *step)
{
	spawn_report->error = errno;
	snprintf(spawn_report->step, sizeof spawn_report->step, "%s", step);
	_exit(127);
}

static void set_limit(__rlimit_resource_t resource, uint64_t value)
{
	struct rlimit limit;
	if (getrlimit(resource, &limit))
		fail("read a resource limit");
	if (value < limit.rlim_max) /* a limit that is lower already stays */
		limit.rlim_max = value;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(resource, &limit) && !(config->gvisor && errno == EPERM))
		fail("set a resource limit");
}

/* The init of an ordinary user's run counts as a process, too. gVisor lets in one more than it says. */
static uint64_t processes_limit(void)
{
	uint64_t processes = request.number[PROCESSES];
	return config->rootless ? processes + 1 : config->gvisor ? processes - 1 : processes;
}

static void setup_limits(void)
{
	set_limit(RLIMIT_CPU, request.number[CPU_NS] / (uint64_t)SECOND_NS + 2); /* second line */
	set_limit(RLIMIT_FSIZE, request.number[FILE_BYTES]);
	set_limit(RLIMIT_NOFILE, request.number[OPEN_FILES]);
	set_limit(RLIMIT_STACK, request.number[STACK_BYTES]);
	set_limit(RLIMIT_CORE, core_limit);
	set_limit(RLIMIT_MSGQUEUE, 0);
	set_limit(RLIMIT_RTPRIO, 0);
	set_limit(RLIMIT_MEMLOCK, 8 << 20);
	set_limit(RLIMIT_SIGPENDING, 1024);
	if (!account_limits_processes())
		set_limit(RLIMIT_NPROC, processes_limit());
}

/* The kernel's out-of-memory killer shall take programs, never the runner. With
 * CAP_SYS_RESOURCE, where the runner has it, the program cannot lower it again. */
static void setup_oom_score(void)
{
	int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	/* Of an interactive run the first process shall go last: what it starts goes up to 1000. */
	bool offered = file >= 0 && request.interactive && write(file, "900", 3) == 3;
	if (!offered && (file < 0 || write(file, "1000", 4) != 4))
		fail("offer itself to the out-of-memory killer");
	close(file);
}

static void setup_signals(void)
{
	sigset_t none;
	sigemptyset(&none);
	signal(SIGPIPE, SIG_DFL);
	if (sigprocmask(SIG_SETMASK, &none, NULL))
		fail("unblock signals");
}

static void setup_user(uid_t uid)
{
	if (config->rootless) {
		struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
		struct __user_cap_data_struct none[2] = { { .effective = 0 } };
		if (syscall(SYS_capset, &header, none))
			fail("drop capabilities");
		return;
	}
	if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
		fail("become the run's user");
}

static void setup_filter(void)
{
	if (!config->seccomp)
		return;
	errno = 0;
	if (config->rootless)
		errno = seccomp_install(FILTER_FULL, true);
	else if (account_clone_fd() >= 0)
		errno = seccomp_install(FILTER_NO_NAMESPACES, true);
	if (errno)
		fail("install the system-call filter");
}

/* In the child, from the clone to the exec. */
_Noreturn static void become_program(int in, int out, int err, uid_t uid)
{
	if (!config->rootless) {
		errno = account_enter();
		if (errno)
			fail("enter the cgroup");
	}
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 || close_range(3, INT_MAX, 0))
		fail("set up file descriptors");
	setup_signals();
	setup_limits();
	setup_oom_score();
	if (setsid() < 0 || chdir("/work"))
		fail("enter /work");
	umask(022);
	setup_user(uid);
	setup_filter();
	execve(request.argv[0], request.argv, request.environment);
	fail("execute the program");
}

static pid_t clone_process(uint64_t flags)
{
	int cgroup = account_clone_fd();
	if (cgroup < 0 && !(flags & CLONE_NEWUSER))
		return (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
	struct clone_args arguments = { .flags = flags, .exit_signal = SIGCHLD };
	if (cgroup >= 0) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = (unsigned)cgroup;
	}
	return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
}

/* PID 1 of a run in an ordinary user's box. When it ends, the kernel ends the whole run. */
_Noreturn static void be_run_init(int in, int out, int err)
{
	/* /proc/self of a non-dumpable process belongs to a root that this namespace lacks. */
	prctl(PR_SET_DUMPABLE, 1);
	errno = account_enter();
	if (errno)
		fail("enter the cgroup");
	setup_oom_score();
	box_mount_run_view(request.number[WRITABLE_SUBMISSION] != 0, config->scratch_bytes);
	pid_t child = (pid_t)syscall(SYS_clone, CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, NULL);
	if (child < 0)
		fail("start the program");
	if (!child)
		become_program(in, out, err, 0);
	prctl(PR_SET_DUMPABLE, 0);
	close_range(0, INT_MAX, 0);
	if (spawn_report->error)
		_exit(127);
	struct timespec used;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	spawn_report->setup_cpu_ns = used.tv_sec * SECOND_NS + used.tv_nsec;
	spawn_report->started_ns = clock_ns();
	int status;
	pid_t ended;
	while ((ended = wait4(-1, &status, __WALL, NULL)) != child)
		if (ended < 0 && errno != EINTR)
			_exit(127);
	spawn_report->status = status;
	spawn_report->ended_ns = clock_ns();
	kill(-1, SIGKILL);
	while (wait4(-1, NULL, __WALL, NULL) > 0) /* so that their use is counted as ours */
		;
	_exit(0);
}

pid_t spawn(int in, int out, int err, uid_t uid)
{
	memset(spawn_report, 0, sizeof *spawn_report);
	uint64_t flags = CLONE_VFORK; /* the child shares nothing, but we wait for its exec */
	if (config->rootless)
		flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS;
	pid_t child = clone_process(flags);
	if (child < 0)
		die("cannot start a process in the box");
	if (!child && config->rootless)
		be_run_init(in, out, err);
	if (!child)
		become_program(in, out, err, uid);
	account_started(child);
	return child;
}
