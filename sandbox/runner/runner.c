/* Theory of operation
 *
 * The runner is PID 1 of a box and the only trusted process in it. It is told what to do over its
 * standard input, answers over its standard output, and starts one untrusted program at a time.
 *
 *     service ──stdin──> shim ──────────> runner (PID 1 of the box) ──> program ──> its children
 *             <─stdout──  (waits only)    seccomp, few capabilities     own uid, no capability
 *
 * A box is built once (box.c): namespaces, a read-only root of bind mounts, a private /proc, /dev
 * and one tmpfs for everything that a program may write. Building costs milliseconds, so a box is
 * kept and a run only pays for what must be fresh: a user id, accounting, limits, pipes, and the
 * removal of whatever it left.
 *
 * In a docker box the container engine has built all that, there is no shim, and the pipes are the
 * container's own: the runner looks whether it is so (box_check_container) and goes on from there.
 *
 * A run (run.c) goes through: begin accounting -> clone (the parent sleeps until the child's exec,
 * so set-up errors are known and set-up time is not charged) -> supervise (poll: output, child
 * exits, time, cancel) -> kill everything of the run -> reap -> drain pipes -> account -> wipe ->
 * report. Nothing is reported before everything the program started is dead and gone.
 *
 * Who kills what: by cgroup where there is v2, else by the run's uid (kill(-1) after taking on that
 * uid, so that only processes of the run can be hit), and for an ordinary user's box by ending the
 * run's own PID namespace. PID 1 cannot be killed from inside its namespace.
 *
 * Accounting (cgroup.c) has three forms: cgroup v2 (a fresh directory per run, entered by clone3),
 * cgroup v1 (one directory per box, peak reset per run), and none (sampling /proc; only if the
 * operator has given cgroups up by name).
 *
 * When the control pipe ends, for whatever reason, the runner exits, and the kernel kills the whole
 * PID namespace. The janitor (janitor.c) is another mode of this program: it outlives a killed
 * service just long enough to remove the cgroup directories that the service made. The agent (agent.c)
 * is a third mode, and no part of the runner: an untrusted program like any other, put into a box to
 * execute the commands of a session there.
 *
 * Error style: die() is the sandbox's own fault and ends the box. A program's fault is never an
 * error here, but a field of its outcome.
 */
#include "runner.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

_Noreturn void die(const char *format, ...)
{
	int error = errno;
	char text[512];
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(text, sizeof text - 64, format, arguments);
	va_end(arguments);
	if (length < 0)
		length = 0;
	if ((size_t)length > sizeof text - 65)
		length = (int)sizeof text - 65;
	if (error)
		length += snprintf(text + length, 64, ": %s", strerror(error));
	text[length] = '\n';
	ssize_t ignored = write(STDERR_FILENO, text, (size_t)length + 1);
	(void)ignored;
	_exit(70); /* EX_SOFTWARE */
}

int64_t clock_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * SECOND_NS + now.tv_nsec;
}

static int serve(const struct config *config)
{
	if (!config->container)
		box_enter(config);
	files_open();
	frames_start();
	run_start(config);
	uint32_t version = PROTOCOL_VERSION;
	frame_send(HELLO, 0, &version, sizeof version, NULL, 0, NULL, 0);

	struct frame frame;
	while (frame_read(&frame)) {
		run_serve(&frame);
		free(frame.payload);
	}
	return 0;
}

static uint64_t parse_number(const char *text)
{
	char *end;
	errno = 0;
	uint64_t value = strtoull(text, &end, 10);
	if (errno || *end || end == text) {
		errno = 0;
		die("not a number on the command line: %s", text);
	}
	return value;
}

/* Options are KEY=VALUE words; the service is the only caller, so there is no help text here. */
static void parse_option(struct config *config, char *word)
{
	char *equals = strchr(word, '=');
	errno = 0;
	if (!equals)
		die("option without a value: %s", word);
	*equals = 0;
	const char *value = equals + 1;
	if (!strcmp(word, "mount")) {
		if (config->mount_count == MOUNTS_MAX)
			die("more than %d mounts", MOUNTS_MAX);
		config->mounts[config->mount_count++] = value;
	} else if (!strcmp(word, "scratch-bytes"))
		config->scratch_bytes = parse_number(value);
	else if (!strcmp(word, "uid-first"))
		config->uid_first = (uid_t)parse_number(value);
	else if (!strcmp(word, "uid-count"))
		config->uid_count = (uid_t)parse_number(value);
	else if (!strcmp(word, "seccomp"))
		config->seccomp = parse_number(value) != 0;
	else if (!strcmp(word, "gvisor"))
		config->gvisor = parse_number(value) != 0;
	else if (!strcmp(word, "cgroup2"))
		config->cgroup_v2 = value;
	else if (!strcmp(word, "cgroup-memory"))
		config->cgroup_memory = value;
	else if (!strcmp(word, "cgroup-pids"))
		config->cgroup_pids = value;
	else if (!strcmp(word, "cgroup-cpuacct"))
		config->cgroup_cpuacct = value;
	else
		die("unknown option: %s", word);
}

/* In a container, programs can read the command line of PID 1: it is copied for good, and wiped. */
static void parse_options(struct config *config, int count, char **words)
{
	static char *copy;
	if (count < 1)
		return;
	/* The words lie one behind the other. */
	size_t size = (size_t)(words[count - 1] - words[0]) + strlen(words[count - 1]) + 1;
	copy = malloc(size);
	if (!copy)
		die("no memory for the options");
	memcpy(copy, words[0], size);
	for (int i = 0; i < count; i++)
		parse_option(config, copy + (words[i] - words[0]));
	memset(words[0], 0, size);
}

int main(int count, char **words)
{
	if (count == 2 && !strcmp(words[1], "agent"))
		return agent();
	if (count >= 2 && !strcmp(words[1], "janitor"))
		return janitor(count - 2, words + 2);
	bool container = count >= 2 && !strcmp(words[1], "container");
	if (count < 2 || (!container && strcmp(words[1], "box"))) {
		errno = 0;
		die("usage: cupel-runner box|container KEY=VALUE... | agent | janitor DIRECTORY...");
	}
	struct config config = {
		.rootless = !container && geteuid() != 0,
		.container = container,
		.seccomp = true,
		.scratch_bytes = 1ULL << 30,
		.uid_first = 0x70000000,
		.uid_count = 4096,
	};
	parse_options(&config, count - 2, words + 2);
	account_open(&config);
	if (config.container) {
		box_check_container(&config);
		return serve(&config);
	}
	pid_t child = box_spawn(&config, serve);
	/* Nothing of the runner may be read or traced, least of all by what it starts. (Not earlier: an
	 * ordinary user's box must write its own uid_map first.) */
	if (prctl(PR_SET_DUMPABLE, 0))
		die("cannot become non-dumpable");

	/* The shim: it only waits. It must not hold the pipes, or their end would go unseen. */
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	int status;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			die("cannot wait for the runner");
	if (WIFSIGNALED(status))
		return 128 + WTERMSIG(status);
	return WEXITSTATUS(status);
}
