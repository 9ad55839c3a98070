/* One run: start a program, watch it, end everything it started, and report how it went.
 *
 * OUTCOME's payload: signalled u8, limit u8, code u32, then u64 each: cpu_ns user_ns system_ns
 * wall_ns memory_bytes processes stdout_bytes stderr_bytes stdout_kept stderr_kept, then the kept
 * bytes of stdout and of stderr.
 */
#include "runner.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORDS_MAX 512
#define CHECK_MIN_NS (1000 * 1000LL)   /* how often a program near its CPU limit is looked at */
#define SAMPLE_NS (10 * 1000 * 1000LL) /* how often /proc is sampled where there is no cgroup */
#define KILL_PATIENCE_NS (10 * SECOND_NS)

enum tag {
	PATH = 1, BYTES = 2, EXECUTABLE = 3, MAX_BYTES = 4,
	ARGV = 10, ENVIRONMENT, STDIN, STDIN_PATH, CPU_NS, WALL_NS, MEMORY_BYTES, PROCESSES,
	OUTPUT_BYTES, STDERR_BYTES, FILE_BYTES, OPEN_FILES, STACK_BYTES, MEMORY_BASELINE_BYTES,
	WRITABLE_SUBMISSION,
};

/* A request, decoded; pointers lead into the frame, where each value is followed by a NUL that
 * decode() puts there (over the next field's tag, which it has read by then). */
struct request_fields {
	char *argv[WORDS_MAX + 1], *environment[WORDS_MAX + 1];
	size_t argc, environment_count;
	const char *path, *stdin_path;
	const uint8_t *bytes;
	size_t size;
	uint64_t number[WRITABLE_SUBMISSION + 1];
};

struct stream {
	int fd;
	uint8_t *kept;
	size_t kept_size, kept_max, capacity;
	uint64_t written;
};

/* What the child tells its parent: a shared page, because the child has its own memory. */
struct report {
	int error;
	char step[64];
	volatile int64_t started_ns, ended_ns; /* written by the init of an ordinary user's run */
	volatile int status;
};

static const struct config *config;
static struct request_fields request;
static struct report *shared;
static int signals;                      /* signalfd for SIGCHLD */
static int nothing;                      /* /dev/null */
static long processors;
static uint64_t run_number;

void run_start(const struct config *given)
{
	config = given;
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &mask, NULL))
		die("cannot block signals");
	signal(SIGPIPE, SIG_IGN);
	signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	processors = sysconf(_SC_NPROCESSORS_ONLN);
	if (signals < 0 || nothing < 0 || shared == MAP_FAILED || processors < 1)
		die("cannot prepare for runs");
	if (config->seccomp && !config->rootless) {
		errno = seccomp_install(account_clone_fd() < 0 ? FILTER_FULL : FILTER_FULL_WITH_CLONE3);
		if (errno)
			die("cannot install the system-call filter");
	}
}

/* ---- decoding ------------------------------------------------------------------------------ */

static const char *decode(const struct frame *frame)
{
	memset(&request, 0, sizeof request);
	uint8_t *at = frame->payload, *end = frame->payload + frame->size;
	uint8_t tag = at < end ? *at : 0;
	while (at < end) {
		uint32_t size;
		if (end - at < 5)
			return "a field is cut off";
		memcpy(&size, at + 1, 4);
		size = le32toh(size);
		uint8_t *value = at + 5;
		if ((size_t)(end - value) < size)
			return "a field is cut off";
		at = value + size;
		uint8_t next = at < end ? *at : 0;
		*at = 0; /* frame_read leaves a byte behind the payload for this */
		if (tag == ARGV || tag == ENVIRONMENT) {
			size_t *count = tag == ARGV ? &request.argc : &request.environment_count;
			if (*count == WORDS_MAX)
				return "too many words";
			if (strlen((char *)value) != size)
				return "a word holds a NUL byte";
			(tag == ARGV ? request.argv : request.environment)[(*count)++] = (char *)value;
		} else if (tag == PATH || tag == STDIN_PATH) {
			if (strlen((char *)value) != size)
				return "a path holds a NUL byte";
			*(tag == PATH ? &request.path : &request.stdin_path) = (char *)value;
		} else if (tag == BYTES || tag == STDIN) {
			request.bytes = value;
			request.size = size;
		} else if (tag <= WRITABLE_SUBMISSION && size == 8) {
			uint64_t number;
			memcpy(&number, value, 8);
			request.number[tag] = le64toh(number);
		} else {
			return "an unknown field";
		}
		tag = next;
	}
	return NULL;
}

/* ---- starting ------------------------------------------------------------------------------ */

static int open_stdin(void)
{
	if (request.stdin_path)
		return files_open_input(request.stdin_path);
	if (!request.size)
		return nothing;
	int file = memfd_create("stdin", MFD_CLOEXEC);
	const uint8_t *bytes = request.bytes;
	for (size_t left = request.size; file >= 0 && left;) {
		ssize_t written = write(file, bytes, left);
		if (written < 0 && errno != EINTR) {
			int error = errno;
			close(file);
			errno = error;
			return -1;
		}
		if (written > 0) {
			bytes += written;
			left -= (size_t)written;
		}
	}
	if (file >= 0)
		lseek(file, 0, SEEK_SET);
	return file;
}

_Noreturn static void fail(const char *step)
{
	shared->error = errno;
	snprintf(shared->step, sizeof shared->step, "%s", step);
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
	if (setrlimit(resource, &limit))
		fail("set a resource limit");
}

static void setup_limits(void)
{
	set_limit(RLIMIT_CPU, request.number[CPU_NS] / (uint64_t)SECOND_NS + 2); /* second line */
	set_limit(RLIMIT_FSIZE, request.number[FILE_BYTES]);
	set_limit(RLIMIT_NOFILE, request.number[OPEN_FILES]);
	set_limit(RLIMIT_STACK, request.number[STACK_BYTES]);
	set_limit(RLIMIT_CORE, 0);
	set_limit(RLIMIT_MSGQUEUE, 0);
	set_limit(RLIMIT_RTPRIO, 0);
	set_limit(RLIMIT_MEMLOCK, 8 << 20);
	set_limit(RLIMIT_SIGPENDING, 1024);
	if (!account_limits_processes())
		set_limit(RLIMIT_NPROC, request.number[PROCESSES] + (config->rootless ? 1 : 0));
}

/* The kernel's out-of-memory killer shall take programs, never the runner. */
static void setup_oom_score(void)
{
	int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (file < 0 || write(file, "1000", 4) != 4)
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
		errno = seccomp_install(FILTER_FULL);
	else if (account_clone_fd() >= 0)
		errno = seccomp_install(FILTER_NO_NAMESPACES);
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
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 || close_range(3, ~0U, 0))
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
	box_mount_run_view(request.number[WRITABLE_SUBMISSION] != 0);
	pid_t child = (pid_t)syscall(SYS_clone, CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, NULL);
	if (child < 0)
		fail("start the program");
	if (!child)
		become_program(in, out, err, 0);
	prctl(PR_SET_DUMPABLE, 0);
	close_range(0, ~0U, 0);
	if (shared->error)
		_exit(127);
	shared->started_ns = clock_ns();
	int status;
	pid_t ended;
	while ((ended = wait4(-1, &status, __WALL, NULL)) != child)
		if (ended < 0 && errno != EINTR)
			_exit(127);
	shared->status = status;
	shared->ended_ns = clock_ns();
	kill(-1, SIGKILL);
	while (wait4(-1, NULL, __WALL, NULL) > 0) /* so that their use is counted as ours */
		;
	_exit(0);
}

static pid_t start(int in, int out, int err, uid_t uid)
{
	memset(shared, 0, sizeof *shared);
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
	account_started();
	return child;
}

/* ---- watching ------------------------------------------------------------------------------ */

/* Takes what a pipe holds; returns false once nobody can write to it any more. */
static bool drain(struct stream *stream)
{
	static uint8_t buffer[64 << 10];
	for (;;) {
		ssize_t got = read(stream->fd, buffer, sizeof buffer);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0;
		stream->written += (uint64_t)got;
		size_t room = stream->kept_max - stream->kept_size;
		size_t take = (size_t)got < room ? (size_t)got : room;
		if (stream->kept_size + take > stream->capacity) {
			size_t capacity = 2 * stream->capacity + sizeof buffer;
			uint8_t *kept = realloc(stream->kept, capacity);
			if (!kept)
				die("no memory for output");
			stream->kept = kept;
			stream->capacity = capacity;
		}
		if (take)
			memcpy(stream->kept + stream->kept_size, buffer, take);
		stream->kept_size += take;
		if (stream->written > request.number[OUTPUT_BYTES] && got == sizeof buffer)
			return true; /* a flood: let the caller decide before taking more */
	}
}

struct ended {
	pid_t main;
	bool main_ended;
	int status;
	int64_t at_ns;
	struct rusage usage;     /* of all that were reaped */
};

static void add_time(struct timeval *sum, const struct timeval *value)
{
	sum->tv_sec += value->tv_sec;
	sum->tv_usec += value->tv_usec;
	sum->tv_sec += sum->tv_usec / 1000000;
	sum->tv_usec %= 1000000;
}

/* Reaps whatever has ended; returns false once there is no child at all. */
static bool reap(struct ended *ended)
{
	for (;;) {
		int status;
		struct rusage usage;
		pid_t child = wait4(-1, &status, WNOHANG | __WALL, &usage);
		if (child <= 0)
			return child == 0;
		account_reaped(&usage);
		add_time(&ended->usage.ru_utime, &usage.ru_utime);
		add_time(&ended->usage.ru_stime, &usage.ru_stime);
		if (child == ended->main) {
			ended->main_ended = true;
			ended->status = config->rootless && shared->ended_ns ? shared->status : status;
			ended->at_ns = config->rootless && shared->ended_ns ? shared->ended_ns : clock_ns();
		}
	}
}

static void forget_signals(void)
{
	struct signalfd_siginfo information;
	while (read(signals, &information, sizeof information) > 0)
		;
}

/* How long the program may be left alone before the next look at its use. */
static int64_t next_check(int64_t cpu_left_ns, int64_t wall_left_ns)
{
	int64_t concurrent = (int64_t)request.number[PROCESSES];
	if (concurrent > processors)
		concurrent = processors;
	int64_t wait = cpu_left_ns / concurrent;
	if (wait < CHECK_MIN_NS)
		wait = CHECK_MIN_NS;
	if (!config->cgroup_v2 && !config->cgroup_memory && wait > SAMPLE_NS)
		wait = SAMPLE_NS;
	return wait < wall_left_ns ? wait : wall_left_ns;
}

/* Watches until the program has ended (LIMIT_NONE) or must be ended; -1: nobody wants it any more. */
static int supervise(uint32_t id, int64_t start_ns, struct stream streams[2], struct ended *ended)
{
	bool open[2] = { true, true };
	for (;;) {
		account_sample();
		int64_t wall_left = start_ns + (int64_t)request.number[WALL_NS] - clock_ns();
		int64_t cpu_left = (int64_t)request.number[CPU_NS] - account_cpu_ns();
		if (account_over_memory())
			return LIMIT_MEMORY;
		if (cpu_left <= 0)
			return LIMIT_CPU;
		if (wall_left <= 0)
			return LIMIT_WALL;
		int64_t wait = next_check(cpu_left, wall_left);
		struct timespec timeout = { wait / SECOND_NS, wait % SECOND_NS };
		struct pollfd ready[4] = {
			{ .fd = signals, .events = POLLIN },
			{ .fd = STDIN_FILENO, .events = frames_have_room() ? POLLIN : 0 },
			{ .fd = open[0] ? streams[0].fd : -1, .events = POLLIN },
			{ .fd = open[1] ? streams[1].fd : -1, .events = POLLIN },
		};
		if (ppoll(ready, 4, &timeout, NULL) < 0 && errno != EINTR)
			die("cannot wait for the program");
		for (int i = 0; i < 2; i++)
			if (ready[2 + i].revents)
				open[i] = drain(&streams[i]);
		if (ready[0].revents) {
			forget_signals();
			reap(ended);
		}
		if (streams[0].written > request.number[OUTPUT_BYTES])
			return LIMIT_OUTPUT;
		if (ended->main_ended)
			return LIMIT_NONE;
		if (ready[1].revents && !frames_poll_input())
			_exit(0); /* the service is gone: so is everything here, with PID 1 */
		if (frame_cancelled(id))
			return -1;
	}
}

/* ---- ending -------------------------------------------------------------------------------- */

/* Kills every process of the run's user; returns whether there was any (zombies count). */
static bool kill_user(uid_t uid)
{
	/* With that user's id and no capability, kill(-1) reaches the run's processes alone. */
	if (setresuid(uid, uid, 0))
		die("cannot take on the run's user");
	bool any = !kill(-1, SIGKILL) || errno != ESRCH;
	if (setresuid(0, 0, 0))
		die("cannot become root again");
	return any;
}

static void end_everything(uid_t uid, struct ended *ended)
{
	int64_t patience_ends = clock_ns() + KILL_PATIENCE_NS;
	for (;;) {
		account_kill();
		bool any = false;
		if (!config->rootless)
			any = kill_user(uid);
		else if (!ended->main_ended)
			kill(ended->main, SIGKILL);
		any |= reap(ended);
		if (!any)
			break;
		struct pollfd ready = { .fd = signals, .events = POLLIN };
		struct timespec moment = { .tv_nsec = 2 * 1000 * 1000 };
		ppoll(&ready, 1, &moment, NULL);
		forget_signals();
		reap(ended);
		if (clock_ns() > patience_ends) {
			errno = 0;
			die("processes of a run do not die");
		}
	}
}

static int64_t timeval_ns(const struct timeval *time)
{
	return time->tv_sec * SECOND_NS + time->tv_usec * 1000LL;
}

static void put_u64(uint8_t **at, uint64_t value)
{
	value = htole64(value);
	memcpy(*at, &value, 8);
	*at += 8;
}

static void send_outcome(uint32_t id, int limit, const struct ended *ended, int64_t wall_ns,
			 const struct usage *usage, const struct stream streams[2])
{
	uint8_t head[6 + 10 * 8], *at = head;
	bool signalled = WIFSIGNALED(ended->status);
	uint32_t code = htole32((uint32_t)(signalled ? WTERMSIG(ended->status) :
						       WEXITSTATUS(ended->status)));
	*at++ = signalled;
	*at++ = (uint8_t)limit;
	memcpy(at, &code, 4);
	at += 4;
	/* The cgroup's sum is exact; the split between user and system is rusage's. */
	int64_t user = timeval_ns(&ended->usage.ru_utime), system = timeval_ns(&ended->usage.ru_stime);
	double share = user + system ? (double)user / (double)(user + system) : 1.0;
	int64_t cpu = usage->cpu_ns > 0 ? usage->cpu_ns : 0;
	int64_t user_share = (int64_t)((double)cpu * share);
	put_u64(&at, (uint64_t)cpu);
	put_u64(&at, (uint64_t)user_share);
	put_u64(&at, (uint64_t)(cpu - user_share));
	put_u64(&at, (uint64_t)wall_ns);
	uint64_t baseline = request.number[MEMORY_BASELINE_BYTES];
	put_u64(&at, usage->memory_bytes > baseline ? usage->memory_bytes - baseline : 0);
	put_u64(&at, usage->processes ? usage->processes : 1);
	put_u64(&at, streams[0].written);
	put_u64(&at, streams[1].written);
	put_u64(&at, streams[0].kept_size);
	put_u64(&at, streams[1].kept_size);
	frame_send(OUTCOME, id, head, sizeof head, streams[0].kept, streams[0].kept_size,
		   streams[1].kept, streams[1].kept_size);
}

static void refuse(uint32_t id, const char *what, const char *why)
{
	char text[512];
	int length = snprintf(text, sizeof text, "%s: %s", what, why);
	size_t size = (size_t)length < sizeof text ? (size_t)length : sizeof text - 1;
	frame_send(REFUSED, id, text, size, NULL, 0, NULL, 0);
}

/* Watches, ends and reports a run that has been started. */
static void finish(uint32_t id, uid_t uid, struct ended *ended, struct stream streams[2])
{
	int64_t start_ns = clock_ns();
	int limit = supervise(id, start_ns, streams, ended);
	int64_t stopped_ns = clock_ns();
	end_everything(uid, ended);
	if (ended->main_ended && limit == LIMIT_NONE)
		stopped_ns = ended->at_ns;
	drain(&streams[0]);
	drain(&streams[1]);
	struct usage usage = account_end();
	if (config->rootless && shared->started_ns)
		start_ns = shared->started_ns;
	if (limit == LIMIT_NONE && streams[0].written > request.number[OUTPUT_BYTES])
		limit = LIMIT_OUTPUT;
	if (limit == LIMIT_NONE && WIFSIGNALED(ended->status) && WTERMSIG(ended->status) == SIGXFSZ)
		limit = LIMIT_FILE_SIZE;
	/* A program too large to be loaded at all has met its memory limit as well. */
	bool too_large = shared->error == ENOMEM;
	if (limit >= 0 && (usage.out_of_memory || too_large))
		limit = LIMIT_MEMORY;
	if (limit < 0)
		frame_send(CANCELLED, id, NULL, 0, NULL, 0, NULL, 0);
	else if (shared->error && !too_large)
		refuse(id, shared->step, strerror(shared->error));
	else
		send_outcome(id, limit, ended, stopped_ns > start_ns ? stopped_ns - start_ns : 0, &usage,
			     streams);
}

static void run(uint32_t id)
{
	if (frame_cancelled(id)) {
		frame_send(CANCELLED, id, NULL, 0, NULL, 0, NULL, 0);
		return;
	}
	if (!request.argc || !request.number[CPU_NS] || !request.number[WALL_NS] ||
	    !request.number[MEMORY_BYTES] || !request.number[PROCESSES] || !request.number[OPEN_FILES]) {
		refuse(id, "run", "a program or a limit is missing");
		return;
	}
	int in = open_stdin();
	if (in < 0) {
		refuse(id, "standard input", strerror(errno));
		return;
	}
	uid_t uid = config->uid_first + (uid_t)(run_number++ % config->uid_count);
	int out[2], err[2];
	if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		die("cannot make pipes");
	if (fcntl(out[0], F_SETFL, O_NONBLOCK) || fcntl(err[0], F_SETFL, O_NONBLOCK))
		die("cannot make pipes non-blocking");
	struct stream streams[2] = {
		{ .fd = out[0], .kept_max = request.number[OUTPUT_BYTES] },
		{ .fd = err[0], .kept_max = request.number[STDERR_BYTES] },
	};
	bool writable = request.number[WRITABLE_SUBMISSION] && !config->rootless;
	if (writable)
		files_lend_submission(uid, uid);
	/* The init of an ordinary user's run counts as a process, too. */
	account_begin(request.number[MEMORY_BYTES] + request.number[MEMORY_BASELINE_BYTES],
		      request.number[PROCESSES] + (config->rootless ? 1 : 0));
	struct ended ended = { .main = start(in, out[1], err[1], uid) };
	close(out[1]);
	close(err[1]);
	if (in != nothing)
		close(in);
	finish(id, uid, &ended, streams);
	close(out[0]);
	close(err[0]);
	free(streams[0].kept);
	free(streams[1].kept);
	/* After the report, since it is no part of the run, and before the next request is looked at. */
	if (writable)
		files_seal_submission();
	files_wipe_scratch();
	account_recycle();
}

void run_serve(const struct frame *frame)
{
	const char *problem = decode(frame);
	uint8_t *content = NULL;
	size_t size = 0;
	if (problem) {
		refuse(frame->id, "request", problem);
		return;
	}
	switch (frame->type) {
	case RUN:
		run(frame->id);
		return;
	case CANCEL:
		return;
	case RESET:
		files_wipe_submission();
		files_wipe_scratch();
		frame_send(DONE, frame->id, NULL, 0, NULL, 0, NULL, 0);
		return;
	case PUT:
		problem = !request.path ? "no path" :
					  files_put(request.path, request.bytes, request.size,
						    request.number[EXECUTABLE] != 0);
		break;
	case GET:
		problem = !request.path ? "no path" :
					  files_get(request.path, request.number[MAX_BYTES], &content, &size);
		break;
	default:
		problem = "an unknown request";
	}
	if (problem)
		refuse(frame->id, request.path ? request.path : "request", problem);
	else
		frame_send(frame->type == GET ? CONTENT : DONE, frame->id, content, size, NULL, 0, NULL, 0);
	free(content);
}
