/* The working folder of a session as one archive, packed and unpacked by a child of the agent.
 *
 * An archive is MAGIC, then a record for each file, folders before what they hold: kind u8 (of d_type),
 * mode u16, mtime_ns u64, path's size u16, size u64, path, content (a link's is its target); the last
 * one is of kind END. Regular files, folders and symbolic links are kept, with their modes and times;
 * hard links become files of their own, and pipes and sockets are left out.
 *
 * Folders are walked by a list of paths, not by recursion: depth costs no descriptors.
 */
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

#define MAGIC "cupel-work-1\n"
#define END 255
#define PATH_LENGTH_MAX 4000
#define HEAD 21

struct entry {
	uint8_t kind;
	uint16_t mode;
	uint64_t mtime_ns;
	uint64_t size;
	char path[PATH_LENGTH_MAX + 1];
};

static struct folder {
	size_t path;             /* where in texts */
	uint16_t mode;
	uint64_t mtime_ns;
} *folders;
static size_t folder_count, folder_capacity;
static char *texts;
static size_t texts_size, texts_capacity;
static uint8_t buffer[64 << 10];

static void add_folder(const struct entry *entry)
{
	if (folder_count == folder_capacity) {
		size_t capacity = 2 * folder_capacity + 64;
		struct folder *more = realloc(folders, capacity * sizeof *more);
		if (!more)
			work_fail("archive", "no memory");
		folders = more;
		folder_capacity = capacity;
	}
	size_t size = strlen(entry->path) + 1;
	if (texts_capacity - texts_size < size) {
		size_t capacity = 2 * texts_capacity + size;
		char *more = realloc(texts, capacity);
		if (!more)
			work_fail("archive", "no memory");
		texts = more;
		texts_capacity = capacity;
	}
	memcpy(texts + texts_size, entry->path, size);
	folders[folder_count++] = (struct folder){ texts_size, entry->mode, entry->mtime_ns };
	texts_size += size;
}

/* ---- saving -------------------------------------------------------------------------------- */

static uint64_t room;

static void put(const void *bytes, size_t size)
{
	if (size > room)
		work_fail("the working folder", "larger than a snapshot may be");
	room -= size;
	if (fwrite(bytes, 1, size, stdout) != size)
		work_fail("archive", strerror(errno));
}

static void put_head(const struct entry *entry)
{
	uint8_t head[HEAD];
	size_t length = strlen(entry->path);
	uint16_t mode = htole16(entry->mode), path_size = htole16((uint16_t)length);
	uint64_t mtime = htole64(entry->mtime_ns), size = htole64(entry->size);
	head[0] = entry->kind;
	memcpy(head + 1, &mode, 2);
	memcpy(head + 3, &mtime, 8);
	memcpy(head + 11, &path_size, 2);
	memcpy(head + 13, &size, 8);
	put(head, sizeof head);
	put(entry->path, length);
}

/* What must be read for a moment; that it failed is seen then. */
static void try_mode(int folder, const char *name, mode_t mode)
{
	int ignored = fchmodat(folder, name, mode, 0);
	(void)ignored;
}

static void save_file(int folder, const char *name, const struct entry *entry)
{
	int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
	int file = openat(folder, name, flags);
	if (file < 0 && errno == EACCES && !fchmodat(folder, name, 0600, 0)) {
		file = openat(folder, name, flags);
		try_mode(folder, name, entry->mode);
	}
	if (file < 0 && errno == ENOENT)
		return; /* it went meanwhile */
	if (file < 0)
		work_fail(entry->path, strerror(errno));
	put_head(entry);
	for (uint64_t left = entry->size; left;) {
		size_t most = left < sizeof buffer ? (size_t)left : sizeof buffer;
		ssize_t got = read(file, buffer, most);
		if (got < 0)
			work_fail(entry->path, strerror(errno));
		if (!got) { /* it shrank meanwhile */
			memset(buffer, 0, most);
			got = (ssize_t)most;
		}
		put(buffer, (size_t)got);
		left -= (size_t)got;
	}
	close(file);
}

static void save_link(int folder, const char *name, struct entry *entry)
{
	char target[PATH_LENGTH_MAX + 1];
	ssize_t size = readlinkat(folder, name, target, sizeof target);
	if (size < 0 || size == sizeof target)
		return;
	entry->size = (uint64_t)size;
	put_head(entry);
	put(target, (size_t)size);
}

static void save_entry(int folder, const char *parent, const char *name)
{
	struct stat status;
	struct entry entry;
	if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW))
		return;
	entry.kind = (uint8_t)IFTODT(status.st_mode);
	entry.mode = status.st_mode & 07777;
	entry.mtime_ns = (uint64_t)(status.st_mtim.tv_sec * SECOND_NS + status.st_mtim.tv_nsec);
	entry.size = 0;
	if (snprintf(entry.path, sizeof entry.path, "%s%s%s", parent, *parent ? "/" : "", name) >=
	    (int)sizeof entry.path)
		work_fail("the working folder", "a path in it is too long for a snapshot");
	if (entry.kind == DT_REG) {
		entry.size = (uint64_t)status.st_size;
		save_file(folder, name, &entry);
	} else if (entry.kind == DT_LNK) {
		save_link(folder, name, &entry);
	} else if (entry.kind == DT_DIR) {
		put_head(&entry);
		add_folder(&entry);
		if ((entry.mode & 0500) != 0500)
			try_mode(folder, name, entry.mode | 0700);
	}
}

void archive_save(int work, uint64_t max_bytes)
{
	struct entry top = { .kind = DT_DIR };
	room = max_bytes;
	put(MAGIC, strlen(MAGIC));
	add_folder(&top);
	for (size_t i = 0; i < folder_count; i++) {
		char path[PATH_LENGTH_MAX + 1]; /* a copy: the texts may move */
		snprintf(path, sizeof path, "%s", texts + folders[i].path);
		int folder = files_open_below(work, *path ? path : ".", O_RDONLY | O_DIRECTORY, 0);
		DIR *entries = folder < 0 ? NULL : fdopendir(folder);
		struct dirent *entry;
		if (!entries && errno == ENOENT)
			continue;
		if (!entries)
			work_fail(*path ? path : "/work", strerror(errno));
		while ((entry = readdir(entries)))
			if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
				save_entry(folder, path, entry->d_name);
		closedir(entries);
	}
	put_head(&(struct entry){ .kind = END });
}

/* ---- loading ------------------------------------------------------------------------------- */

static void get(void *bytes, size_t size)
{
	if (fread(bytes, 1, size, stdin) != size)
		work_fail("archive", "it is cut off");
}

static void get_head(struct entry *entry)
{
	uint8_t head[HEAD];
	uint16_t mode, path_size;
	uint64_t mtime, size;
	get(head, sizeof head);
	memcpy(&mode, head + 1, 2);
	memcpy(&mtime, head + 3, 8);
	memcpy(&path_size, head + 11, 2);
	memcpy(&size, head + 13, 8);
	size_t length = le16toh(path_size);
	if (length > PATH_LENGTH_MAX)
		work_fail("archive", "a path in it is too long");
	get(entry->path, length);
	entry->path[length] = 0;
	if (strlen(entry->path) != length)
		work_fail("archive", "a path in it holds a NUL byte");
	entry->kind = head[0];
	entry->mode = le16toh(mode) & 07777;
	entry->mtime_ns = le64toh(mtime);
	entry->size = le64toh(size);
}

static struct timespec at(uint64_t ns)
{
	return (struct timespec){ (time_t)(ns / SECOND_NS), (long)(ns % SECOND_NS) };
}

static void load_file(int folder, const char *name, const struct entry *entry)
{
	int file = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (file < 0)
		work_fail(entry->path, strerror(errno));
	for (uint64_t left = entry->size; left;) {
		size_t most = left < sizeof buffer ? (size_t)left : sizeof buffer;
		get(buffer, most);
		for (size_t done = 0; done < most;) {
			ssize_t written = write(file, buffer + done, most - done);
			if (written < 0)
				work_fail(entry->path, strerror(errno));
			done += (size_t)written;
		}
		left -= most;
	}
	struct timespec times[2] = { at(entry->mtime_ns), at(entry->mtime_ns) };
	if (fchmod(file, entry->mode & 0777) || futimens(file, times))
		work_fail(entry->path, strerror(errno));
	close(file);
}

static void load_link(int folder, const char *name, const struct entry *entry)
{
	char target[PATH_LENGTH_MAX + 1];
	if (entry->size > PATH_LENGTH_MAX)
		work_fail("archive", "a link in it is too long");
	get(target, (size_t)entry->size);
	target[entry->size] = 0;
	if (symlinkat(target, folder, name))
		work_fail(entry->path, strerror(errno));
}

/* The open folder of a path's file; it was made before. */
static int open_parent(int work, const char *path, const char **name)
{
	char parent[PATH_LENGTH_MAX + 1];
	const char *slash = strrchr(path, '/');
	snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
	*name = slash ? slash + 1 : path;
	int folder = files_open_below(work, parent, O_RDONLY | O_DIRECTORY, 0);
	if (folder < 0)
		work_fail(path, strerror(errno));
	return folder;
}

/* Last, and the deepest first: a folder that cannot be written could not be filled. */
static void finish_folders(int work)
{
	while (folder_count) {
		const struct folder *done = &folders[--folder_count];
		struct timespec times[2] = { at(done->mtime_ns), at(done->mtime_ns) };
		const char *path = texts + done->path;
		int folder = files_open_below(work, path, O_RDONLY | O_DIRECTORY, 0);
		if (folder < 0 || futimens(folder, times) || fchmod(folder, done->mode & 0777))
			work_fail(path, strerror(errno));
		close(folder);
	}
}

void archive_load(int work)
{
	char magic[sizeof MAGIC - 1];
	struct entry entry;
	get(magic, sizeof magic);
	if (memcmp(magic, MAGIC, sizeof magic))
		work_fail("archive", "it is none");
	files_empty_directory(work);
	for (get_head(&entry); entry.kind != END; get_head(&entry)) {
		const char *name;
		int folder = open_parent(work, entry.path, &name);
		if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
			work_fail("archive", "a path in it is none");
		if (entry.kind == DT_REG)
			load_file(folder, name, &entry);
		else if (entry.kind == DT_LNK)
			load_link(folder, name, &entry);
		else if (entry.kind != DT_DIR || mkdirat(folder, name, 0700))
			work_fail(entry.path, "it cannot be made");
		else
			add_folder(&entry);
		close(folder);
	}
	finish_folders(work);
}
