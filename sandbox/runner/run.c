/* One run: start a program, watch it, end everything it started, and report how it went.
 *
 * OUTCOME's payload: signalled u8, limit u8, code u32, then u64 each: cpu_ns user_ns system_ns
 * wall_ns memory_bytes processes stdout_bytes stderr_bytes stdout_kept stderr_kept, then the kept
 * bytes of stdout and of stderr. COUNTS' payload: the fields of struct counts in order, u64 each.
 */
#include "runner.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK_MIN_NS (1000 * 1000LL)   /* how often a program near its CPU limit is looked at */
#define WAITED_MAX 9
#define KILL_PATIENCE_NS (10 * SECOND_NS)

static const struct config *config;
static int signals;                      /* signalfd for SIGCHLD */
static long processors;
static uint64_t run_number;
static struct counts {
	uint64_t runs;           /* started */
	uint64_t cancelled;      /* of them, ended because nobody wanted them any more */
	uint64_t left_processes; /* of those that ended by themselves, with others still alive */
	uint64_t left_files;     /* with something to wipe */
	uint64_t resets;
} counts;

/* What the service's parents ignore is inherited through exec, and no program's business (a shell's
 * nohup, and make, under which libc's own signal 32 is ignored: hence the bare system call). */
static void forget_dispositions(void)
{
	static const unsigned long by_default[4]; /* the kernel's struct: SIG_DFL, no flags, no mask */
	for (int number = 1; number <= 64; number++)
		syscall(SYS_rt_sigaction, number, by_default, NULL, 8);
}

void run_start(const struct config *given)
{
	config = given;
	forget_dispositions();
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &mask, NULL))
		die("cannot block signals");
	signal(SIGPIPE, SIG_IGN);
	signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	processors = sysconf(_SC_NPROCESSORS_ONLN);
	if (signals < 0 || processors < 1)
		die("cannot prepare for runs");
	spawn_start(given);
}

/* ---- watching ------------------------------------------------------------------------------ */

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
			ended->status = config->rootless && spawn_report->ended_ns ? spawn_report->status : status;
			ended->at_ns = config->rootless && spawn_report->ended_ns ? spawn_report->ended_ns : clock_ns();
		}
	}
}

static void forget_signals(void)
{
	struct signalfd_siginfo information;
	while (read(signals, &information, sizeof information) > 0)
		;
}

/* How long the program's first thread has stood ready without getting a core, where it is known. */
static int64_t waited_for_core_ns(pid_t pid)
{
	char path[64], text[128];
	snprintf(path, sizeof path, "/proc/%d/schedstat", (int)pid);
	int file = config->rootless ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = file < 0 ? 0 : read(file, text, sizeof text - 1);
	if (file >= 0)
		close(file);
	text[got > 0 ? got : 0] = 0;
	long long ran, waited;
	return sscanf(text, "%lld %lld", &ran, &waited) == 2 ? waited : 0;
}

/* Wall time that is left. A busy host must not make a sleeper of a program that would compute, so
 * what it waited for a core is given back, up to WAITED_MAX times the limit. */
static int64_t wall_left_ns(int64_t start_ns, pid_t pid)
{
	int64_t limit = (int64_t)request.number[WALL_NS];
	int64_t left = start_ns + limit - clock_ns();
	if (left > 0)
		return left;
	int64_t waited = waited_for_core_ns(pid);
	return left + (waited < WAITED_MAX * limit ? waited : WAITED_MAX * limit);
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
	if (wait > account_sample_ns())
		wait = account_sample_ns();
	return wait < wall_left_ns ? wait : wall_left_ns;
}

/* Watches until the program has ended (LIMIT_NONE) or must be ended; -1: nobody wants it any more. */
static int supervise(uint32_t id, int64_t start_ns, struct stream streams[2], struct feed *feed,
		     struct ended *ended)
{
	bool open[2] = { true, true };
	for (;;) {
		account_sample();
		if (spawn_report->started_ns)
			start_ns = spawn_report->started_ns;
		int64_t wall_left = wall_left_ns(start_ns, ended->main);
		int64_t cpu_left = (int64_t)request.number[CPU_NS] + spawn_report->setup_cpu_ns -
				   account_cpu_ns();
		if (account_fork_storm())
			return LIMIT_PROCESSES;
		if (account_over_memory())
			return LIMIT_MEMORY;
		if (cpu_left <= 0)
			return LIMIT_CPU;
		if (wall_left <= 0)
			return LIMIT_WALL;
		int64_t wait = next_check(cpu_left, wall_left);
		struct timespec timeout = { wait / SECOND_NS, wait % SECOND_NS };
		if (request.interactive)
			feed_write(feed);
		if (!frames_flush())
			_exit(0); /* the service is gone: so is everything here, with PID 1 */
		bool owing = frames_owed();
		struct pollfd ready[6] = {
			{ .fd = signals, .events = POLLIN },
			{ .fd = STDIN_FILENO, .events = frames_have_room() ? POLLIN : 0 },
			{ .fd = open[0] && !owing ? streams[0].fd : -1, .events = POLLIN },
			{ .fd = open[1] ? streams[1].fd : -1, .events = POLLIN },
			{ .fd = owing ? STDOUT_FILENO : -1, .events = POLLOUT },
			{ .fd = feed_waits(feed) ? feed->fd : -1, .events = POLLOUT },
		};
		if (ppoll(ready, 6, &timeout, NULL) < 0 && errno != EINTR)
			die("cannot wait for the program");
		if (ready[2].revents)
			open[0] = (request.interactive ? stream_forward(&streams[0], id) :
							 stream_drain(&streams[0])) != ENDED;
		if (ready[3].revents)
			open[1] = stream_drain(&streams[1]) != ENDED;
		if (ready[0].revents) {
			forget_signals();
			reap(ended);
		}
		if (streams[0].written > request.number[OUTPUT_BYTES])
			return LIMIT_OUTPUT;
		if (ended->main_ended)
			return LIMIT_NONE;
		if (ready[1].revents && !frames_poll_input())
			_exit(0);
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
	/* The kernel forgets these whenever a process changes its user. A container's PID 1 has no parent
	 * to follow, but a pipe that ends. */
	if ((!config->container && prctl(PR_SET_PDEATHSIG, SIGKILL)) || prctl(PR_SET_DUMPABLE, 0))
		die("cannot protect the runner again");
	return any;
}

/* Returns whether anything was left to kill. */
static bool end_everything(uid_t uid, struct ended *ended)
{
	bool found = false;
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
			return found;
		found = true;
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
	int64_t cpu = usage->cpu_ns - spawn_report->setup_cpu_ns;
	if (cpu < 0)
		cpu = 0;
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

/* The processes of an interactive run are killed for memory one by one, which is no end of the run;
 * that its first process was among them is. */
static bool met_memory_limit(const struct ended *ended, bool ended_alone, const struct usage *usage)
{
	bool killed = ended_alone && WIFSIGNALED(ended->status) && WTERMSIG(ended->status) == SIGKILL;
	return usage->out_of_memory && (killed || !request.interactive);
}

/* Watches, ends and reports a run that has been started. */
static void finish(uint32_t id, uid_t uid, struct ended *ended, struct stream streams[2],
		   struct feed *feed)
{
	int64_t start_ns = clock_ns();
	int limit = supervise(id, start_ns, streams, feed, ended);
	int64_t stopped_ns = clock_ns();
	bool ended_alone = ended->main_ended;
	if (end_everything(uid, ended) && ended_alone)
		counts.left_processes++;
	if (ended->main_ended && limit == LIMIT_NONE)
		stopped_ns = ended->at_ns;
	while (request.interactive && stream_forward(&streams[0], id) == MORE)
		frames_wait();
	for (int i = 0; i < 2; i++)
		while (stream_drain(&streams[i]) == MORE) /* nobody is left to write: the pipe bounds it */
			;
	account_sample();
	struct usage usage = account_end();
	if (spawn_report->started_ns)
		start_ns = spawn_report->started_ns;
	if (config->rootless && usage.processes > 1)
		usage.processes--; /* the run's own init */
	if (limit == LIMIT_NONE && streams[0].written > request.number[OUTPUT_BYTES])
		limit = LIMIT_OUTPUT;
	if (limit == LIMIT_NONE && WIFSIGNALED(ended->status) && WTERMSIG(ended->status) == SIGXFSZ)
		limit = LIMIT_FILE_SIZE;
	/* A program too large to be loaded at all has met its memory limit as well. */
	bool too_large = spawn_report->error == ENOMEM;
	if (limit >= 0 && account_fork_storm())
		limit = LIMIT_PROCESSES;
	else if (limit >= 0 && (met_memory_limit(ended, ended_alone, &usage) || too_large))
		limit = LIMIT_MEMORY;
	counts.runs++;
	counts.cancelled += limit < 0;
	if (limit < 0)
		frame_send(CANCELLED, id, NULL, 0, NULL, 0, NULL, 0);
	else if (spawn_report->error && !too_large)
		refuse(id, spawn_report->step, strerror(spawn_report->error));
	else
		send_outcome(id, limit, ended, stopped_ns > start_ns ? stopped_ns - start_ns : 0, &usage,
			     streams);
}

/* The run owns its pipes, so that a program can open /dev/stdout and /dev/stderr by name. */
static void make_pipes(int in[2], int out[2], int err[2], uid_t uid)
{
	/* gVisor gives pipes to whoever made them, for good. */
	if (config->gvisor && setresuid((uid_t)-1, uid, (uid_t)-1))
		die("cannot take on the run's user");
	if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) ||
	    (request.interactive && pipe2(in, O_CLOEXEC)))
		die("cannot make pipes");
	if (config->gvisor && setresuid((uid_t)-1, 0, (uid_t)-1))
		die("cannot become root again");
	if (!config->rootless && !config->gvisor && (fchown(out[1], uid, uid) || fchown(err[1], uid, uid)))
		die("cannot give the run its pipes");
	if (request.interactive && !config->rootless && !config->gvisor && fchown(in[0], uid, uid))
		die("cannot give the run its pipes");
	if (fcntl(out[0], F_SETFL, O_NONBLOCK) || fcntl(err[0], F_SETFL, O_NONBLOCK) ||
	    (request.interactive && fcntl(in[1], F_SETFL, O_NONBLOCK)))
		die("cannot make pipes non-blocking");
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
	int in[2] = { request.interactive ? -1 : spawn_open_stdin(), -1 };
	if (in[0] < 0 && !request.interactive) {
		refuse(id, "standard input", strerror(errno));
		return;
	}
	uid_t uid = config->uid_first + (uid_t)(run_number++ % config->uid_count);
	int out[2], err[2];
	make_pipes(in, out, err, uid);
	struct feed feed = { .id = id, .fd = in[1] };
	struct stream streams[2] = {
		{ .fd = out[0], .kept_max = request.number[OUTPUT_BYTES] },
		{ .fd = err[0], .kept_max = request.number[STDERR_BYTES] },
	};
	bool writable = request.number[WRITABLE_SUBMISSION] != 0;
	if (writable && !config->rootless)
		files_lend_submission(uid, uid);
	/* The init of an ordinary user's run counts as a process, too. */
	account_begin(request.number[MEMORY_BYTES] + request.number[MEMORY_BASELINE_BYTES],
		      request.number[PROCESSES] + (config->rootless ? 1 : 0), request.interactive);
	struct ended ended = { .main = spawn(in[0], out[1], err[1], uid) };
	close(out[1]);
	close(err[1]);
	close(in[0]);
	finish(id, uid, &ended, streams, &feed);
	feed_close(&feed);
	close(out[0]);
	close(err[0]);
	free(streams[0].kept);
	free(streams[1].kept);
	/* After the report, since it is no part of the run, and before the next request is looked at. */
	if (writable)
		files_seal_submission();
	counts.left_files += files_wipe_scratch();
	account_recycle();
}

static void send_counts(uint32_t id)
{
	uint8_t bytes[5 * 8], *at = bytes;
	put_u64(&at, counts.runs);
	put_u64(&at, counts.cancelled);
	put_u64(&at, counts.left_processes);
	put_u64(&at, counts.left_files);
	put_u64(&at, counts.resets);
	frame_send(COUNTS, id, bytes, sizeof bytes, NULL, 0, NULL, 0);
}

void run_serve(const struct frame *frame)
{
	const char *problem = frame->type == INPUT ? NULL : request_decode(frame);
	uint8_t *content = NULL;
	size_t size = 0;
	if (problem) {
		refuse(frame->id, "request", problem);
		return;
	}
	switch (frame->type) {
	case RUN:
	case STREAM:
		run(frame->id);
		return;
	case CANCEL:
	case INPUT: /* of a run that has ended */
		return;
	case RESET:
		files_wipe_submission();
		files_wipe_scratch();
		counts.resets++;
		frame_send(DONE, frame->id, NULL, 0, NULL, 0, NULL, 0);
		return;
	case STATISTICS:
		send_counts(frame->id);
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
