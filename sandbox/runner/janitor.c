/* The janitor: removes a service's cgroup directories when the service is gone, however it went.
 *
 * It holds the read end of a pipe whose write end only the service has; the end of that pipe is the
 * service's end. (A parent-death signal would fire when the *thread* that started it ends.)
 */
#include "runner.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void kill_members(int directory)
{
	/* v2: it reaches other PID namespaces, too, whose processes are all 0 in the list below. */
	int all = openat(directory, "cgroup.kill", O_WRONLY | O_CLOEXEC);
	bool killed = all >= 0 && write(all, "1", 1) == 1;
	if (all >= 0)
		close(all);
	if (killed)
		return;
	int file = openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	FILE *list = file < 0 ? NULL : fdopen(file, "r");
	int pid;
	while (list && fscanf(list, "%d", &pid) == 1)
		if (pid > 1 && pid != getpid())
			kill(pid, SIGKILL);
	if (list)
		fclose(list);
}

/* Returns whether the directory is gone. Cgroups nest two deep here; the bound is for safety. */
static bool remove_cgroup(int parent, const char *name, int depth)
{
	int directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (directory < 0)
		return errno == ENOENT;
	kill_members(directory);
	DIR *entries = fdopendir(directory);
	struct dirent *entry;
	while (entries && depth < 8 && (entry = readdir(entries)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
			remove_cgroup(directory, entry->d_name, depth + 1);
	if (entries)
		closedir(entries);
	return !unlinkat(parent, name, AT_REMOVEDIR) || errno == ENOENT;
}

int janitor(int count, char **directories)
{
	/* A terminal's Ctrl-C and a killed process group are meant for the service, not for us. */
	setsid();
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	char byte;
	ssize_t got;
	do
		got = read(STDIN_FILENO, &byte, 1);
	while (got > 0 || (got < 0 && errno == EINTR));

	for (int try = 0; try < 500; try++) {
		bool gone = true;
		for (int i = 0; i < count; i++)
			gone &= remove_cgroup(AT_FDCWD, directories[i], 0);
		if (gone)
			return 0;
		nanosleep(&(struct timespec){ .tv_nsec = 10 * 1000 * 1000 }, NULL);
	}
	return 1;
}
