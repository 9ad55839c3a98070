/* Files of a box: those of the submission, put and read by the service, and what runs leave.
 *
 * The runner works on directories that hostile programs have filled. So: no path of theirs is ever
 * followed (O_NOFOLLOW, one component at a time), depth costs nothing (directories are lifted to the
 * top before they are emptied, so nothing recurses), and the number of files is bounded by the file
 * system's inodes.
 */
#include "runner.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PLACES 3

static struct {
	int submission;
	int places[PLACES];           /* scratch: of one file system (native) or of three (docker) */
	uint64_t clean_inodes[PLACES]; /* in use on that file system when clean */
	bool counts_inodes;           /* gVisor's tmpfs does not */
} fd;

static int open_directory(const char *path)
{
	int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (directory < 0)
		die("cannot open %s", path);
	return directory;
}

static struct statfs look_at(int directory)
{
	struct statfs status;
	if (fstatfs(directory, &status))
		die("cannot look at a scratch file system");
	return status;
}

static uint64_t inodes_used(int directory)
{
	struct statfs status = look_at(directory);
	return status.f_files - status.f_ffree;
}

static bool is_clean(void)
{
	for (int i = 0; i < PLACES; i++)
		if (inodes_used(fd.places[i]) != fd.clean_inodes[i])
			return false;
	return true;
}

void files_open(void)
{
	static const char *const places[PLACES] = { "/work", "/tmp", "/dev/shm" };
	fd.submission = open_directory("/sub");
	for (int i = 0; i < PLACES; i++) {
		fd.places[i] = open_directory(places[i]);
		fd.clean_inodes[i] = inodes_used(fd.places[i]);
	}
	fd.counts_inodes = look_at(fd.places[0]).f_files > 0;
}

uint64_t files_scratch_bytes(bool one_file_system)
{
	uint64_t bytes = 0;
	for (int i = 0; i < (one_file_system ? 1 : PLACES); i++) {
		struct statfs status = look_at(fd.places[i]);
		bytes += (status.f_blocks - status.f_bfree) * (uint64_t)status.f_bsize;
	}
	return bytes;
}

/* O_DIRECTORY without O_DIRECTORY: with it, gVisor forgets O_NOFOLLOW. */
static int open_folder_at(int directory, const char *name, int flags)
{
	struct stat status;
	int folder = openat(directory, name, flags & ~O_DIRECTORY);
	if (folder < 0 || (!fstat(folder, &status) && S_ISDIR(status.st_mode)))
		return folder;
	close(folder);
	errno = ENOTDIR;
	return -1;
}

/* Opens below a directory and never leaves it, whatever links lie there: one component at a time,
 * none of which may be a link. (gVisor has no openat2.) Missing directories on the way are made if the
 * file itself would be. */
int files_open_below(int base, const char *path, int flags, mode_t mode)
{
	char copy[4096];
	if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy) {
		errno = ENAMETOOLONG;
		return -1;
	}
	int directory = base, opened = -1;
	for (char *name = copy, *slash = NULL; name; name = slash ? slash + 1 : NULL) {
		slash = strchr(name, '/');
		if (slash)
			*slash = 0;
		int step = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
		if (!strcmp(name, "..")) {
			errno = EXDEV;
			opened = -1;
		} else if (slash) {
			step |= O_RDONLY;
			opened = open_folder_at(directory, name, step);
			if (opened < 0 && errno == ENOENT && flags & O_CREAT &&
			    !mkdirat(directory, name, 0755))
				opened = open_folder_at(directory, name, step);
		} else if (flags & O_DIRECTORY) {
			opened = open_folder_at(directory, name, step | flags);
		} else {
			opened = openat(directory, name, step | flags, mode);
		}
		int error = errno;
		if (directory != base)
			close(directory);
		errno = error;
		if (opened < 0)
			return -1;
		directory = opened;
	}
	return opened;
}

const char *files_put(const char *path, const uint8_t *content, size_t size, bool executable)
{
	if (!*path || *path == '/')
		return "the path must be relative to /sub";
	int file = files_open_below(fd.submission, path, O_WRONLY | O_CREAT | O_TRUNC, executable ? 0755 : 0644);
	if (file < 0)
		return strerror(errno);
	const char *problem = fchmod(file, executable ? 0755 : 0644) ? strerror(errno) : NULL;
	while (size && !problem) {
		ssize_t written = write(file, content, size);
		if (written < 0 && errno != EINTR)
			problem = strerror(errno);
		if (written > 0) {
			content += written;
			size -= (size_t)written;
		}
	}
	if (close(file) && !problem)
		problem = strerror(errno);
	return problem;
}

const char *files_get(const char *path, uint64_t max_bytes, uint8_t **content, size_t *size)
{
	struct stat status;
	int file = files_open_below(fd.submission, path, O_RDONLY, 0);
	if (file < 0)
		return strerror(errno);
	const char *problem = NULL;
	if (fstat(file, &status) || !S_ISREG(status.st_mode))
		problem = "not a regular file";
	else if ((uint64_t)status.st_size > max_bytes)
		problem = "larger than asked for";
	*size = 0;
	*content = problem ? NULL : malloc((size_t)status.st_size + 1);
	if (!problem && !*content)
		problem = strerror(ENOMEM);
	while (!problem && *size < (size_t)status.st_size) {
		ssize_t got = read(file, *content + *size, (size_t)status.st_size - *size);
		if (got < 0 && errno != EINTR)
			problem = strerror(errno);
		if (got == 0)
			break;
		if (got > 0)
			*size += (size_t)got;
	}
	close(file);
	return problem;
}

int files_open_input(const char *path)
{
	return files_open_below(fd.submission, path, O_RDONLY, 0);
}

void files_lend_submission(uid_t uid, gid_t gid)
{
	if (fchown(fd.submission, uid, gid))
		die("cannot lend /sub to the run");
}

/* Whatever its mode: root does not need this, the owner does. */
static int open_directory_at(int directory, const char *name)
{
	int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW;
	int child = openat(directory, name, flags);
	if (child < 0 && errno == EACCES && !fchmodat(directory, name, 0700, 0))
		child = openat(directory, name, flags);
	if (child >= 0)
		fchmod(child, 0700);
	return child;
}

/* Empties a directory that may hold anything; returns whether it held something. */
bool files_empty_directory(int directory)
{
	unsigned long lifted = 0;
	for (bool any = false;; any = true) {
		bool found = false;
		int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		DIR *entries = copy < 0 ? NULL : fdopendir(copy);
		struct dirent *entry;
		if (!entries)
			die("cannot list a scratch directory");
		while ((entry = readdir(entries))) {
			const char *name = entry->d_name;
			if (!strcmp(name, ".") || !strcmp(name, ".."))
				continue;
			found = true;
			if (!unlinkat(directory, name, 0) || !unlinkat(directory, name, AT_REMOVEDIR))
				continue;
			int child = open_directory_at(directory, name);
			DIR *inner = child < 0 ? NULL : fdopendir(child);
			if (!inner)
				die("cannot open a scratch directory");
			struct dirent *below;
			while ((below = readdir(inner))) {
				char target[64];
				if (!strcmp(below->d_name, ".") || !strcmp(below->d_name, ".."))
					continue;
				if (!unlinkat(child, below->d_name, 0) ||
				    !unlinkat(child, below->d_name, AT_REMOVEDIR))
					continue;
				do /* a program may have taken the name */
					snprintf(target, sizeof target, "lifted-%lu", lifted++);
				while (renameat(child, below->d_name, directory, target) &&
				       (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR ||
					(errno == EACCES && !fchmodat(child, below->d_name, 0700, 0))));
			}
			closedir(inner);
			if (unlinkat(directory, name, AT_REMOVEDIR) && errno != ENOTEMPTY)
				die("cannot remove a scratch directory");
		}
		closedir(entries);
		if (!found)
			return any;
	}
}

/* Files in flight between UNIX sockets that hold each other outlive every process; the kernel looks
 * for such circles when a UNIX socket is closed. */
static void collect_files_in_flight(void)
{
	int bell = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (bell < 0)
		die("cannot make a socket");
	close(bell);
}

bool files_wipe_scratch(void)
{
	static const struct timespec epoch[2];
	collect_files_in_flight();
	bool found = !is_clean();
	for (int i = 0; i < PLACES; i++) {
		if (!fd.counts_inodes)
			found |= files_empty_directory(fd.places[i]);
		else if (inodes_used(fd.places[i]) != fd.clean_inodes[i])
			files_empty_directory(fd.places[i]);
		if (futimens(fd.places[i], epoch)) /* the last run's time stamp is no message */
			die("cannot reset a scratch directory");
	}
	for (int try = 0; !is_clean(); try++) {
		if (try == 1000) {
			errno = 0;
			die("the scratch file system is not clean after its wipe");
		}
		collect_files_in_flight(); /* in the background: it may take a moment */
		nanosleep(&(struct timespec){ .tv_nsec = 1000 * 1000 }, NULL);
	}
	return found;
}

void files_wipe_submission(void)
{
	files_empty_directory(fd.submission);
}

/* Takes /sub back after a run that could write to it: no later run may change what lies there. */
static void seal(int directory, int depth)
{
	if (fchown(directory, 0, 0) || fchmod(directory, 0755))
		die("cannot take /sub back");
	int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *entries = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;
	if (!entries)
		die("cannot list /sub");
	while ((entry = readdir(entries))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		struct stat status;
		int file = openat(directory, entry->d_name,
				  O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		bool known = file >= 0 && !fstat(file, &status);
		if (known && S_ISDIR(status.st_mode) && depth < 64) {
			seal(file, depth + 1);
		} else if (known && S_ISREG(status.st_mode) && status.st_nlink == 1) {
			if (fchown(file, 0, 0) ||
			    fchmod(file, status.st_mode & 0111 ? 0755 : 0644))
				die("cannot take a file of /sub back");
		} else if (unlinkat(directory, entry->d_name, 0)) {
			/* Links, pipes, sockets, bottomless depths: no compiler leaves those. */
			die("something odd lies in /sub");
		}
		if (file >= 0)
			close(file);
	}
	closedir(entries);
}

void files_seal_submission(void)
{
	errno = 0;
	seal(fd.submission, 0);
}
