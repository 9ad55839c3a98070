/* The processes of a session, as /proc shows them to its agent. */
#include "runner.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KILL_ROUNDS 32

struct process {
	pid_t pid, parent, group, session;
	bool marked;
};

/* Every process of this box that is not dead, but the agent and PID 1; malloc'ed. */
static struct process *list_processes(size_t *count)
{
	struct process *found = NULL;
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	size_t capacity = 0;
	*count = 0;
	while (proc && (entry = readdir(proc))) {
		char path[64], text[512];
		pid_t pid = atoi(entry->d_name);
		if (pid <= 1 || pid == getpid())
			continue;
		snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
		int file = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t got = file < 0 ? -1 : read(file, text, sizeof text - 1);
		if (file >= 0)
			close(file);
		text[got > 0 ? got : 0] = 0;
		struct process process = { .pid = pid };
		char state;
		const char *fields = strrchr(text, ')'); /* a name may hold anything but what follows it */
		if (!fields || sscanf(fields + 1, " %c %d %d %d", &state, &process.parent, &process.group,
				      &process.session) != 4 || state == 'Z' || state == 'X')
			continue;
		if (*count == capacity) {
			capacity = 2 * capacity + 64;
			struct process *more = realloc(found, capacity * sizeof *more);
			if (!more)
				die("no memory for processes");
			found = more;
		}
		found[(*count)++] = process;
	}
	if (proc)
		closedir(proc);
	return found;
}

static bool belongs(const struct process *process, pid_t leader, bool leader_ended,
		    const struct process *all, size_t count)
{
	if (process->group == leader || process->session == leader)
		return true;
	if (leader_ended)
		return false; /* its number may be another's by now */
	if (process->pid == leader || process->parent == leader)
		return true;
	for (size_t i = 0; i < count; i++)
		if (all[i].marked && all[i].pid == process->parent)
			return true;
	return false;
}

/* Kills what can be told to be of a command by its first process, again and again while more of it comes up. */
void processes_kill(pid_t leader, bool leader_ended)
{
	for (int round = 0, found = 1; round < KILL_ROUNDS && found; round++) {
		size_t count;
		struct process *all = list_processes(&count);
		found = 0;
		for (bool more = true; more;) {
			more = false;
			for (size_t i = 0; i < count; i++)
				if (!all[i].marked && belongs(&all[i], leader, leader_ended, all, count))
					all[i].marked = more = true;
		}
		for (size_t i = 0; i < count; i++)
			found += all[i].marked && !kill(all[i].pid, SIGKILL);
		free(all);
	}
}

uint32_t processes_count(void)
{
	size_t count;
	free(list_processes(&count));
	return (uint32_t)count;
}
