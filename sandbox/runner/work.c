/* Actions on the files of a session, in a child of the agent: below /work, through no link at all. */
#include "runner.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Noreturn void work_fail(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s\n", what, why);
	_exit(1);
}

static const char *explain(int error)
{
	return error == ELOOP ? "a symbolic link, which is not followed" : strerror(error);
}

static int open_or_fail(int work, const char *path, int flags)
{
	int file = files_open_below(work, path, flags, 0);
	if (file < 0)
		work_fail(path, explain(errno));
	return file;
}

void work_read(int work, const char *path, uint64_t max_bytes)
{
	static uint8_t buffer[64 << 10];
	struct stat status;
	int file = open_or_fail(work, path, O_RDONLY);
	if (fstat(file, &status) || !S_ISREG(status.st_mode))
		work_fail(path, "not a regular file");
	if ((uint64_t)status.st_size > max_bytes)
		work_fail(path, "larger than asked for");
	ssize_t got;
	for (uint64_t left = max_bytes; left && (got = read(file, buffer, sizeof buffer)); ) {
		if (got < 0)
			work_fail(path, strerror(errno));
		size_t size = (uint64_t)got < left ? (size_t)got : (size_t)left; /* it may have grown */
		if (fwrite(buffer, 1, size, stdout) != size)
			work_fail(path, strerror(errno));
		left -= size;
	}
}

static const char *write_all(int file, const uint8_t *bytes, size_t size)
{
	while (size) {
		ssize_t written = write(file, bytes, size);
		if (written < 0)
			return strerror(errno);
		bytes += written;
		size -= (size_t)written;
	}
	return NULL;
}

/* Whole or not at all: under another name first. */
void work_write(int work, const char *path, uint64_t size, bool executable)
{
	static uint8_t buffer[64 << 10];
	char part[4096], name[64];
	const char *slash = strrchr(path, '/');
	int folder_size = slash ? (int)(slash - path) : 0;
	snprintf(name, sizeof name, ".cupel-part-%d", (int)getpid());
	if (snprintf(part, sizeof part, "%.*s%s%s", folder_size, path, slash ? "/" : "", name) >=
	    (int)sizeof part)
		work_fail(path, strerror(ENAMETOOLONG));
	mode_t mode = executable ? 0755 : 0644;
	int file = files_open_below(work, part, O_WRONLY | O_CREAT | O_EXCL, mode);
	if (file < 0)
		work_fail(path, explain(errno));
	part[folder_size] = 0;
	int folder = open_or_fail(work, folder_size ? part : ".", O_RDONLY | O_DIRECTORY);
	const char *problem = NULL;
	while (size && !problem) {
		ssize_t got = read(STDIN_FILENO, buffer, size < sizeof buffer ? (size_t)size : sizeof buffer);
		if (got <= 0)
			problem = got ? strerror(errno) : "its content was cut off";
		else
			problem = write_all(file, buffer, (size_t)got);
		size -= got > 0 ? (uint64_t)got : 0;
	}
	if (!problem && (fchmod(file, mode) || renameat(folder, name, folder, slash ? slash + 1 : path)))
		problem = strerror(errno);
	if (problem) {
		unlinkat(folder, name, 0);
		work_fail(path, problem);
	}
}

/* One record each: kind u8 (of d_type), mode u16, size u64, mtime_ns u64, name's size u16, name. */
void work_list(int work, const char *path)
{
	DIR *entries = fdopendir(open_or_fail(work, path, O_RDONLY | O_DIRECTORY));
	struct dirent *entry;
	if (!entries)
		work_fail(path, strerror(errno));
	while ((entry = readdir(entries))) {
		struct stat status;
		uint8_t head[21];
		size_t length = strlen(entry->d_name);
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") ||
		    fstatat(dirfd(entries), entry->d_name, &status, AT_SYMLINK_NOFOLLOW))
			continue;
		uint16_t mode = htole16(status.st_mode & 07777), name_size = htole16((uint16_t)length);
		uint64_t size = htole64((uint64_t)status.st_size);
		uint64_t mtime = htole64((uint64_t)(status.st_mtim.tv_sec * SECOND_NS + status.st_mtim.tv_nsec));
		head[0] = (uint8_t)IFTODT(status.st_mode);
		memcpy(head + 1, &mode, 2);
		memcpy(head + 3, &size, 8);
		memcpy(head + 11, &mtime, 8);
		memcpy(head + 19, &name_size, 2);
		fwrite(head, 1, sizeof head, stdout);
		fwrite(entry->d_name, 1, length, stdout);
	}
	closedir(entries);
}
