/* The agent: the program of a session. It executes commands in its box, and hands on what they read,
 * write and how they end. Nothing here is trusted: it has the session's user like the commands
 * themselves, which may kill it; then the session is over.
 *
 * It speaks frames over its standard streams, laid out as the runner's (protocol.c, fields included):
 *
 *   EXEC        argv=10... environment=11... path=1 (working directory) open_stdin=25
 *   READ_FILE   path=1 max_bytes=4             its content is the output
 *   WRITE_FILE  path=1 max_bytes=4 executable=3   reads exactly that much input
 *   LIST        path=1                         records as work.c has them
 *   SAVE        max_bytes=4                    an archive of /work (archive.c)
 *   LOAD                                       empties /work, and unpacks one
 *   INPUT       payload = bytes for the standard input of that command; none: its end
 *   KILL                                       it, its process group and session, its descendants
 *   COUNT                                      -> COUNTED u32: processes besides the agent
 *
 * Each of the first six is a command: a child in a session of its own, numbered by the frame's id,
 * with OUTPUT (stream u8, bytes), TAKEN (u32, as of a STREAM in protocol.c; the service is no more than
 * 256 KiB ahead of it) and at last EXIT (signalled u8, code u32, cpu_ns u64, wall_ns u64). What an
 * action on files has to complain of is its standard error; its exit code is 1 then.
 *
 * A command has ended when its first process has. What it left in the background lives on, and writes
 * to nobody. All output waits for room: a command writes no faster than the service reads.
 *
 * Commands see neither the agent's memory nor its pipes: it is non-dumpable, and their own descriptors
 * are in place before they become dumpable again. The kernel kills commands for memory before it.
 */
#include "runner.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMMANDS_MAX 64
#define INPUT_AHEAD (256U << 10)
#define TELL (64U << 10)

enum { EXEC = 32, READ_FILE, WRITE_FILE, LIST, SAVE, LOAD, KILL, COUNT };
enum { EXIT = 110, COUNTED };

struct command {
	uint32_t number;         /* 0: the place is free */
	pid_t pid;
	bool ended, reported;
	int status;
	int64_t started_ns, ended_ns;
	struct rusage usage;
	int out[2];              /* its standard output and error; -1 at their end */
	size_t left[2];          /* of them, once it has ended: what is still to be handed on */
	int in;                  /* its standard input; -1 once closed */
	size_t input_size, input_written; /* of what is in its place of inputs */
	bool input_ends;
	uint32_t taken;          /* of it, not told yet */
};

#define NO_COMMAND ((struct command){ .out = { -1, -1 }, .in = -1 })

static struct command commands[COMMANDS_MAX];
static uint8_t inputs[COMMANDS_MAX][INPUT_AHEAD]; /* a page takes memory when it is first used */
static int signals, work;
static sigset_t inherited_mask;

static void close_file(int *file)
{
	if (*file >= 0)
		close(*file);
	*file = -1;
}

static void forget(struct command *command)
{
	close_file(&command->out[0]);
	close_file(&command->out[1]);
	close_file(&command->in);
	*command = NO_COMMAND;
}

static struct command *find(uint32_t number)
{
	for (int i = 0; i < COMMANDS_MAX; i++)
		if (number && commands[i].number == number)
			return &commands[i];
	return NULL;
}

/* A free place, or that of the oldest one that has ended (what it left behind loses its pipes). */
static struct command *find_place(void)
{
	struct command *oldest = NULL;
	for (int i = 0; i < COMMANDS_MAX; i++) {
		if (!commands[i].number)
			return &commands[i];
		if (commands[i].reported && (!oldest || commands[i].number < oldest->number))
			oldest = &commands[i];
	}
	if (oldest)
		forget(oldest);
	return oldest;
}

/* ---- starting ------------------------------------------------------------------------------ */

static void offer_to_oom_killer(void)
{
	int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	ssize_t ignored = file < 0 ? 0 : write(file, "1000", 4);
	(void)ignored; /* the kernel prefers it anyway: it is the larger one */
	if (file >= 0)
		close(file);
}

_Noreturn static void execute(void)
{
	if (!request.argc)
		work_fail("no program", "the command is empty");
	if (chdir(request.path ? request.path : "/work"))
		work_fail(request.path, strerror(errno));
	environ = request.environment;
	execvp(request.argv[0], request.argv); /* along the command's own PATH */
	int error = errno;
	fprintf(stderr, "%s: %s\n", request.argv[0], strerror(error));
	_exit(error == ENOENT ? 127 : 126); /* as shells do */
}

_Noreturn static void become_command(uint8_t type, int in, int out, int err)
{
	/* Nothing else: an end of another command's pipe here would keep that from seeing its end. */
	if (setsid() < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 ||
	    dup2(work, 3) < 0 || close_range(4, INT_MAX, 0))
		_exit(126);
	work = 3;
	if (type == EXEC) {
		close(work);
		prctl(PR_SET_DUMPABLE, 1); /* else its /proc/self is not its own */
	}
	offer_to_oom_killer();
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &inherited_mask, NULL);
	uint64_t max_bytes = request.number[MAX_BYTES];
	if (type == EXEC)
		execute();
	signal(SIGXFSZ, SIG_IGN); /* a file too large is an error to tell of */
	if (type == READ_FILE)
		work_read(work, request.path, max_bytes);
	else if (type == WRITE_FILE)
		work_write(work, request.path, max_bytes, request.number[EXECUTABLE] != 0);
	else if (type == LIST)
		work_list(work, request.path);
	else if (type == SAVE)
		archive_save(work, max_bytes);
	else
		archive_load(work);
	if (fflush(stdout))
		work_fail("output", strerror(errno));
	_exit(0);
}

/* What cannot be started ends at once, with the reason on its standard error. */
static void refuse(uint32_t number, const char *why)
{
	uint8_t stream = 1, report[21] = { 0 };
	uint32_t code = htole32(126);
	char line[256];
	int size = snprintf(line, sizeof line, "cannot start: %s\n", why);
	frame_queue(OUTPUT, number, &stream, 1, line, (size_t)size);
	memcpy(report + 1, &code, 4);
	frame_queue(EXIT, number, report, sizeof report, NULL, 0);
}

static bool wants_input(uint8_t type)
{
	return type == WRITE_FILE || type == LOAD || (type == EXEC && request.number[OPEN_STDIN]);
}

static void start(uint8_t type, uint32_t number)
{
	struct command *command = find_place();
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, err[2] = { -1, -1 };
	bool fed = wants_input(type);
	pid_t pid = -1;
	errno = EAGAIN;
	if (command && !pipe2(out, O_CLOEXEC) && !pipe2(err, O_CLOEXEC) &&
	    !(fed ? pipe2(in, O_CLOEXEC) : (in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0))
		pid = fork();
	if (!pid)
		become_command(type, in[0], out[1], err[1]);
	int error = errno;
	close_file(&in[0]);
	close_file(&out[1]);
	close_file(&err[1]);
	if (pid < 0) {
		close_file(&in[1]);
		close_file(&out[0]);
		close_file(&err[0]);
		refuse(number, strerror(error));
		return;
	}
	for (int i = 0; i < COMMANDS_MAX; i++)
		if (commands[i].pid == pid)
			commands[i].pid = 0; /* nothing is left of that one: its number was free */
	*command = (struct command){ .number = number, .pid = pid, .started_ns = clock_ns(),
				     .out = { out[0], err[0] }, .in = in[1] };
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	fcntl(err[0], F_SETFL, O_NONBLOCK);
	if (fed)
		fcntl(in[1], F_SETFL, O_NONBLOCK);
}

/* ---- input --------------------------------------------------------------------------------- */

static void tell_taken(struct command *command)
{
	uint32_t taken = htole32(command->taken);
	command->taken = 0;
	frame_queue(TAKEN, command->number, &taken, sizeof taken, NULL, 0);
}

static void write_input(struct command *command)
{
	while (command->input_written < command->input_size) {
		size_t left = command->input_size - command->input_written;
		ssize_t taken = command->in < 0 ? (ssize_t)left :
						  write(command->in, inputs[command - commands] + command->input_written, left);
		if (taken < 0 && errno == EAGAIN)
			break;
		if (taken < 0 && errno != EINTR)
			close_file(&command->in); /* nobody reads it: the rest is taken all the same */
		if (taken > 0) {
			command->input_written += (size_t)taken;
			command->taken += (uint32_t)taken;
		}
	}
	if (command->input_written == command->input_size) {
		command->input_written = command->input_size = 0;
		if (command->input_ends)
			close_file(&command->in);
	}
	if (command->taken >= TELL)
		tell_taken(command);
}

static void take_input(struct command *command, const uint8_t *bytes, size_t size)
{
	if (!size)
		command->input_ends = true;
	uint8_t *input = inputs[command - commands];
	if (command->input_written) {
		memmove(input, input + command->input_written, command->input_size - command->input_written);
		command->input_size -= command->input_written;
		command->input_written = 0;
	}
	if (size > INPUT_AHEAD - command->input_size) {
		errno = 0;
		die("more input than there is room for");
	}
	memcpy(input + command->input_size, bytes, size);
	command->input_size += size;
	write_input(command);
}

/* ---- ends ---------------------------------------------------------------------------------- */

/* Those of commands are noted; the others are orphans, which come to us because nobody else reaps. */
static void reap(void)
{
	struct signalfd_siginfo information;
	while (read(signals, &information, sizeof information) > 0)
		;
	int status;
	struct rusage usage;
	pid_t pid;
	while ((pid = wait4(-1, &status, WNOHANG | __WALL, &usage)) > 0)
		for (int i = 0; i < COMMANDS_MAX; i++) {
			struct command *command = &commands[i];
			if (command->pid != pid || command->ended)
				continue;
			command->ended = true;
			command->status = status;
			command->usage = usage;
			command->ended_ns = clock_ns();
			for (int stream = 0; stream < 2; stream++) {
				int size = 0;
				if (command->out[stream] >= 0 && !ioctl(command->out[stream], FIONREAD, &size))
					command->left[stream] = size > 0 ? (size_t)size : 0;
			}
		}
}

/* ---- output -------------------------------------------------------------------------------- */

static bool wants_output(const struct command *command, int stream)
{
	if (command->out[stream] < 0)
		return false;
	return command->reported || !frames_owed(); /* what nobody wants any more needs no room */
}

static void read_output(struct command *command, int stream)
{
	static uint8_t buffer[64 << 10];
	size_t size = sizeof buffer;
	if (command->ended && !command->reported && command->left[stream] < size)
		size = command->left[stream];
	ssize_t got = read(command->out[stream], buffer, size);
	if (got == 0 && size) {
		close_file(&command->out[stream]);
		command->left[stream] = 0;
	}
	if (got <= 0 || command->reported)
		return;
	if (command->ended)
		command->left[stream] -= (size_t)got;
	uint8_t which = (uint8_t)stream;
	frame_queue(OUTPUT, command->number, &which, 1, buffer, (size_t)got);
	if (!frames_flush())
		_exit(0);
}

static uint64_t cpu_ns(const struct rusage *usage)
{
	return (uint64_t)((usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * SECOND_NS +
			  (usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) * 1000LL);
}

static void report_end(struct command *command)
{
	uint8_t report[21];
	bool signalled = WIFSIGNALED(command->status);
	uint32_t code = htole32((uint32_t)(signalled ? WTERMSIG(command->status) :
						       WEXITSTATUS(command->status)));
	uint64_t cpu = htole64(cpu_ns(&command->usage));
	uint64_t wall = htole64((uint64_t)(command->ended_ns - command->started_ns));
	report[0] = signalled;
	memcpy(report + 1, &code, 4);
	memcpy(report + 5, &cpu, 8);
	memcpy(report + 13, &wall, 8);
	frame_queue(EXIT, command->number, report, sizeof report, NULL, 0);
	command->reported = true;
	close_file(&command->in);
	command->input_size = command->input_written = 0;
}

static void report_ends(void)
{
	for (int i = 0; i < COMMANDS_MAX; i++) {
		struct command *command = &commands[i];
		while (command->ended && !command->reported && !frames_owed()) {
			if (command->left[0])
				read_output(command, 0);
			else if (command->left[1])
				read_output(command, 1);
			else
				report_end(command);
		}
	}
}

/* ---- the loop ------------------------------------------------------------------------------ */

static void kill_command(const struct command *command)
{
	if (command->pid)
		processes_kill(command->pid, command->ended);
}

static void count_processes(uint32_t number)
{
	uint32_t counted = htole32(processes_count());
	frame_queue(COUNTED, number, &counted, sizeof counted, NULL, 0);
}

static void serve(const struct frame *frame)
{
	struct command *command = find(frame->id);
	if (frame->type == INPUT) {
		if (command && !command->ended)
			take_input(command, frame->payload, frame->size);
		return;
	}
	const char *problem = request_decode(frame);
	bool needs_path = frame->type == READ_FILE || frame->type == WRITE_FILE || frame->type == LIST;
	if (frame->type == KILL && command)
		kill_command(command);
	else if (frame->type == COUNT)
		count_processes(frame->id);
	else if (frame->type < EXEC || frame->type > LOAD)
		return;
	else if (problem || (needs_path && !request.path))
		refuse(frame->id, problem ? problem : "no path");
	else
		start(frame->type, frame->id);
}

static void wait_for_something(void)
{
	static struct pollfd ready[3 + 3 * COMMANDS_MAX];
	bool owing = frames_owed();
	ready[0] = (struct pollfd){ .fd = frames_have_room() ? STDIN_FILENO : -1, .events = POLLIN };
	ready[1] = (struct pollfd){ .fd = signals, .events = POLLIN };
	ready[2] = (struct pollfd){ .fd = owing ? STDOUT_FILENO : -1, .events = POLLOUT };
	for (int i = 0; i < COMMANDS_MAX; i++) {
		struct command *command = &commands[i];
		struct pollfd *place = ready + 3 + 3 * i;
		for (int stream = 0; stream < 2; stream++)
			place[stream] = (struct pollfd){
				.fd = command->number && wants_output(command, stream) ? command->out[stream] : -1,
				.events = POLLIN,
			};
		place[2] = (struct pollfd){
			.fd = command->number && command->input_size ? command->in : -1,
			.events = POLLOUT,
		};
	}
	if (poll(ready, sizeof ready / sizeof *ready, -1) < 0 && errno != EINTR)
		die("cannot wait");
	if (ready[0].revents && !frames_poll_input())
		_exit(0); /* the session is over */
	if (ready[1].revents)
		reap();
	for (int i = 0; i < COMMANDS_MAX; i++) {
		struct pollfd *place = ready + 3 + 3 * i;
		for (int stream = 0; stream < 2; stream++)
			if (place[stream].revents && wants_output(&commands[i], stream))
				read_output(&commands[i], stream);
		if (place[2].revents)
			write_input(&commands[i]);
	}
}

int agent(void)
{
	struct frame frame;
	sigset_t mask;
	if (access("/sub/agent", X_OK))
		die("the agent works in a box only: it may empty /work"); /* somebody tried it on a host */
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* old gVisor has none: there PID 1 reaps orphans */
	if (prctl(PR_SET_DUMPABLE, 0))
		die("cannot become non-dumpable");
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, &inherited_mask);
	signal(SIGPIPE, SIG_IGN);
	signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	work = open("/work", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (signals < 0 || work < 0)
		die("cannot prepare for commands");
	for (int i = 0; i < COMMANDS_MAX; i++)
		commands[i] = NO_COMMAND;
	frames_start();
	for (;;) {
		while (frame_next(&frame)) { /* a KILL must not wait for room */
			serve(&frame);
			free(frame.payload);
			if (!frames_flush())
				_exit(0);
		}
		report_ends();
		if (!frames_flush())
			_exit(0);
		wait_for_something();
	}
}
