/* Limits on memory and processes, and the accounting of CPU time and memory, of one run at a time.
 *
 * v2: a directory per run, made ahead of need, entered by clone3(CLONE_INTO_CGROUP); memory.peak
 *     starts at zero in it. (Writing a pid to cgroup.procs would wait for an RCU grace period.)
 * v1: one directory per box and controller, entered by the child itself, which is single-threaded
 *     then: 0.01 ms a controller. max_usage_in_bytes is reset before each run.
 * none: /proc is sampled, and rusage summed at the end. Only where the operator has asked for it.
 *
 * Both kernels' peaks count page cache of files, which is not the program's memory: what of it was
 * charged during the run is taken off. Limits hold hard whatever the bookkeeping says.
 */
#include "runner.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#define FAILED_FORKS_MAX 1000

static enum { NONE, V1, V2 } mode;
static bool rootless, container;

static struct {
	int memory, pids, cpuacct;     /* v1: directories; v2: `memory` is the box's directory */
	int run;                       /* v2: the directory of the run, prepared or going */
	char run_name[32];
	uint64_t run_number;
	int memory_tasks, pids_tasks, cpuacct_tasks; /* v1: opened once, written by every child */
	int cpu, limit, peak, current, stat, oom, processes, forks; /* files kept open */
} fd;

static struct {
	int64_t cpu_ns;                /* when the program started */
	uint64_t memory_bytes;         /* v1: charged before it, page cache of files not counted */
	uint64_t oom_kills;
	uint64_t failed_forks;
	uint64_t limit_bytes;
	bool interactive;              /* its processes are killed one by one for memory, not all at once */
} before;

static struct {
	int64_t live_cpu_ns, reaped_cpu_ns, seen_cpu_ns;
	uint64_t peak_bytes, processes;
	uint64_t failed_forks;
	bool out_of_memory;
	char scratch[64];              /* none: a run's own file system, whose use counts as memory */
} sampled;

static int open_at(int directory, const char *name, int flags)
{
	int file = openat(directory, name, flags | O_CLOEXEC);
	if (file < 0)
		die("cannot open %s of the box's cgroup", name);
	return file;
}

static void write_at(int directory, const char *name, const char *text)
{
	int file = open_at(directory, name, O_WRONLY);
	if (write(file, text, strlen(text)) < 0)
		die("cannot write %s of the box's cgroup", name);
	close(file);
}

static void write_number(int file, uint64_t value)
{
	char text[32];
	int length = snprintf(text, sizeof text, "%" PRIu64, value);
	if (pwrite(file, text, (size_t)length, 0) < 0)
		die("cannot set a limit of the box's cgroup");
}

static void write_number_at(int directory, const char *name, uint64_t value)
{
	char text[32];
	snprintf(text, sizeof text, "%" PRIu64, value);
	write_at(directory, name, text);
}

static char *read_text(int file, char *buffer, size_t size)
{
	ssize_t got = pread(file, buffer, size - 1, 0);
	if (got < 0)
		die("cannot read the box's cgroup");
	buffer[got] = 0;
	return buffer;
}

static uint64_t read_number(int file)
{
	char text[64];
	return strtoull(read_text(file, text, sizeof text), NULL, 10);
}

/* The value behind KEY in a file of "key value" lines; 0 if there is none. */
static uint64_t read_key(int file, const char *key)
{
	char text[8192];
	size_t length = strlen(key);
	for (char *line = read_text(file, text, sizeof text); line && *line;) {
		if (!strncmp(line, key, length) && line[length] == ' ')
			return strtoull(line + length + 1, NULL, 10);
		line = strchr(line, '\n');
		if (line)
			line++;
	}
	return 0;
}

static uint64_t read_key_at(int directory, const char *name, const char *key)
{
	int file = open_at(directory, name, O_RDONLY);
	uint64_t value = read_key(file, key);
	close(file);
	return value;
}

static uint64_t minus(uint64_t value, uint64_t other)
{
	return value > other ? value - other : 0;
}

/* Page cache of files: everything in the cache that is not shared memory. */
static uint64_t file_cache(int stat)
{
	uint64_t cache = read_key(stat, mode == V1 ? "cache" : "file");
	uint64_t shared = read_key(stat, "shmem");
	return minus(cache, shared);
}

static int open_directory(const char *path)
{
	int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		die("cannot open the cgroup %s", path);
	return directory;
}

static void prepare_v2(void)
{
	snprintf(fd.run_name, sizeof fd.run_name, "run-%" PRIu64, fd.run_number++);
	if (mkdirat(fd.memory, fd.run_name, 0755))
		die("cannot make the run's cgroup");
	fd.run = openat(fd.memory, fd.run_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd.run < 0)
		die("cannot open the run's cgroup");
	if (!faccessat(fd.run, "memory.swap.max", W_OK, 0))
		write_at(fd.run, "memory.swap.max", "0");
	fd.cpu = open_at(fd.run, "cpu.stat", O_RDONLY);
	fd.forks = open_at(fd.run, "pids.events", O_RDONLY);
}

void account_open(const struct config *config)
{
	rootless = config->rootless;
	container = config->container;
	if (config->cgroup_v2) {
		mode = V2;
		fd.memory = open_directory(config->cgroup_v2);
		prepare_v2();
	} else if (config->cgroup_memory && config->cgroup_pids && config->cgroup_cpuacct) {
		mode = V1;
		fd.memory = open_directory(config->cgroup_memory);
		fd.pids = open_directory(config->cgroup_pids);
		fd.cpuacct = open_directory(config->cgroup_cpuacct);
		fd.memory_tasks = open_at(fd.memory, "tasks", O_WRONLY);
		fd.pids_tasks = open_at(fd.pids, "tasks", O_WRONLY);
		fd.cpuacct_tasks = open_at(fd.cpuacct, "tasks", O_WRONLY);
		fd.cpu = open_at(fd.cpuacct, "cpuacct.usage", O_RDONLY);
		fd.limit = open_at(fd.memory, "memory.limit_in_bytes", O_WRONLY);
		fd.peak = open_at(fd.memory, "memory.max_usage_in_bytes", O_RDWR);
		fd.current = open_at(fd.memory, "memory.usage_in_bytes", O_RDONLY);
		fd.stat = open_at(fd.memory, "memory.stat", O_RDONLY);
		fd.oom = open_at(fd.memory, "memory.oom_control", O_RDONLY);
		fd.processes = open_at(fd.pids, "pids.current", O_RDONLY);
		fd.forks = open_at(fd.pids, "pids.events", O_RDONLY);
		write_at(fd.memory, "memory.swappiness", "0");
	} else {
		mode = NONE;
	}
}

void account_begin(uint64_t memory_bytes, uint64_t processes, bool interactive)
{
	memset(&sampled, 0, sizeof sampled);
	memset(&before, 0, sizeof before);
	before.limit_bytes = memory_bytes;
	before.interactive = interactive;
	if (mode == V2) {
		write_at(fd.run, "memory.oom.group", interactive ? "0" : "1");
		write_number_at(fd.run, "memory.max", memory_bytes);
		write_number_at(fd.run, "pids.max", processes);
	} else if (mode == V1) {
		/* Page cache that earlier runs left (a compiler's files) is no room for this one: the
		 * kernel gives it back before the limit is met. */
		before.memory_bytes = minus(read_number(fd.current), file_cache(fd.stat));
		before.oom_kills = read_key(fd.oom, "oom_kill");
		before.failed_forks = read_key(fd.forks, "max");
		write_number(fd.limit, before.memory_bytes + memory_bytes);
		write_number(fd.peak, 0);
		write_number_at(fd.pids, "pids.max", processes);
	}
}

int account_enter(void)
{
	if (mode == V1)
		if (write(fd.memory_tasks, "0", 1) < 0 || write(fd.pids_tasks, "0", 1) < 0 ||
		    write(fd.cpuacct_tasks, "0", 1) < 0)
			return errno;
	return 0;
}

int account_clone_fd(void)
{
	return mode == V2 ? fd.run : -1;
}

static int64_t cgroup_cpu_ns(void)
{
	if (mode == V2)
		return (int64_t)read_key(fd.cpu, "usage_usec") * 1000;
	return (int64_t)read_number(fd.cpu);
}

void account_started(pid_t pid)
{
	if (mode != NONE)
		before.cpu_ns = cgroup_cpu_ns();
	/* An ordinary user's run has scratch places of its own, seen through its first process. */
	snprintf(sampled.scratch, sizeof sampled.scratch, "/proc/%d/root/tmp", (int)pid);
}

int64_t account_cpu_ns(void)
{
	if (mode != NONE)
		return cgroup_cpu_ns() - before.cpu_ns;
	int64_t now_ns = sampled.live_cpu_ns + sampled.reaped_cpu_ns;
	/* What a PID namespace's own init had not reaped when it was killed is in no rusage. */
	if (now_ns > sampled.seen_cpu_ns)
		sampled.seen_cpu_ns = now_ns;
	return sampled.seen_cpu_ns;
}

static uint64_t status_bytes(const char *text, const char *key)
{
	const char *line = strstr(text, key);
	return line ? strtoull(line + strlen(key), NULL, 10) * 1024 : 0;
}

static int read_proc(int proc, const char *pid, const char *name, char *buffer, size_t size)
{
	char path[64];
	snprintf(path, sizeof path, "%.20s/%s", pid, name);
	int file = openat(proc, path, O_RDONLY | O_CLOEXEC);
	ssize_t got = file < 0 ? -1 : read(file, buffer, size - 1);
	if (file >= 0)
		close(file);
	buffer[got > 0 ? got : 0] = 0;
	return got > 0 ? 0 : -1;
}

/* Without cgroups: what lives now, by /proc. Shared pages count once per process that maps them. */
static void sample_proc(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	uint64_t bytes = 0, count = 0;
	int64_t ticks = 0;
	char text[4096];
	while (proc && (entry = readdir(proc))) {
		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !strcmp(entry->d_name, "1"))
			continue;
		if (!read_proc(dirfd(proc), entry->d_name, "status", text, sizeof text))
			/* gVisor's /proc knows the sum only. */
			bytes += strstr(text, "RssAnon:") ?
					 status_bytes(text, "RssAnon:") + status_bytes(text, "RssShmem:") :
					 status_bytes(text, "VmRSS:");
		unsigned long user, system;
		long children_user, children_system;
		const char *fields;
		if (!read_proc(dirfd(proc), entry->d_name, "stat", text, sizeof text) &&
		    (fields = strrchr(text, ')')) &&
		    sscanf(fields + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld",
			   &user, &system, &children_user, &children_system) == 4) {
			ticks += (int64_t)(user + system) + children_user + children_system;
			count++;
		}
	}
	if (proc)
		closedir(proc);
	struct statfs scratch;
	if (!rootless)
		bytes += files_scratch_bytes(!container);
	else if (!statfs(sampled.scratch, &scratch))
		bytes += (scratch.f_blocks - scratch.f_bfree) * (uint64_t)scratch.f_bsize;
	sampled.live_cpu_ns = ticks * (SECOND_NS / sysconf(_SC_CLK_TCK));
	if (bytes > sampled.peak_bytes)
		sampled.peak_bytes = bytes;
	if (count > sampled.processes)
		sampled.processes = count;
}

void account_sample(void)
{
	if (mode == NONE) {
		sample_proc();
		return;
	}
	sampled.failed_forks = read_key(fd.forks, "max") - before.failed_forks;
	if (mode == V1) {
		uint64_t processes = read_number(fd.processes);
		if (processes > sampled.processes)
			sampled.processes = processes;
		/* v2 kills the whole cgroup; here a parent may wait for ever for a child that was killed. */
		sampled.out_of_memory = !before.interactive &&
					read_key(fd.oom, "oom_kill") > before.oom_kills;
	}
}

bool account_limits_processes(void)
{
	return mode != NONE;
}

bool account_over_memory(void)
{
	return sampled.out_of_memory || (mode == NONE && sampled.peak_bytes > before.limit_bytes);
}

/* One that goes on forking against its limit fills the kernel with what failed forks leave to be freed
 * later, which is charged to it: sooner or later, by chance, that is its memory limit. */
bool account_fork_storm(void)
{
	return sampled.failed_forks > FAILED_FORKS_MAX;
}

int64_t account_sample_ns(void)
{
	/* A session is long and mostly idle; the kernel holds its memory limit. */
	static const int64_t often[][2] = { [NONE] = { 10, 10 }, [V1] = { 20, 100 }, [V2] = { 20, 100 } };
	return often[mode][before.interactive] * 1000 * 1000;
}

void account_kill(void)
{
	if (mode == V2)
		write_at(fd.run, "cgroup.kill", "1");
}

void account_reaped(const struct rusage *usage)
{
	if (mode != NONE)
		return;
	sampled.reaped_cpu_ns +=
		(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * SECOND_NS +
		(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) * 1000LL;
	sampled.live_cpu_ns = 0;
	uint64_t resident = (uint64_t)usage->ru_maxrss * 1024;
	if (resident > sampled.peak_bytes)
		sampled.peak_bytes = resident;
	if (!sampled.processes)
		sampled.processes = 1;
}

/* After the report: makes ready for the next run. */
void account_recycle(void)
{
	if (mode != V2)
		return;
	close(fd.cpu);
	close(fd.forks);
	close(fd.run);
	/* Everything in it is dead and reaped, but the kernel may need a moment to let go. */
	for (int try = 0; try < 100; try++) {
		if (!unlinkat(fd.memory, fd.run_name, AT_REMOVEDIR) || errno != EBUSY)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = 1000 * 1000 }, NULL);
	}
	prepare_v2();
}

struct usage account_end(void)
{
	struct usage usage = { .cpu_ns = account_cpu_ns(), .processes = sampled.processes };
	if (mode == V2) {
		int peak = open_at(fd.run, "memory.peak", O_RDONLY);
		int stat = open_at(fd.run, "memory.stat", O_RDONLY);
		usage.memory_bytes = minus(read_number(peak), file_cache(stat));
		usage.out_of_memory = read_key_at(fd.run, "memory.events", "oom_kill") > 0;
		close(peak);
		close(stat);
		int processes = openat(fd.run, "pids.peak", O_RDONLY | O_CLOEXEC);
		if (processes >= 0) { /* from Linux 6.1 on */
			usage.processes = read_number(processes);
			close(processes);
		}
	} else if (mode == V1) {
		uint64_t others = before.memory_bytes + file_cache(fd.stat);
		usage.memory_bytes = minus(read_number(fd.peak), others);
		usage.out_of_memory = read_key(fd.oom, "oom_kill") > before.oom_kills;
	} else {
		usage.memory_bytes = sampled.peak_bytes;
		usage.out_of_memory = account_over_memory();
	}
	return usage;
}
