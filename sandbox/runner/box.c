/* Building a box: namespaces, a read-only root, devices, capabilities. Each step dies on failure:
 * a box with a layer missing must not start. */
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* <sys/mount.h> and <linux/mount.h> cannot be included together with every libc. */
int mount(const char *source, const char *target, const char *type, unsigned long flags,
	  const void *data);
int umount2(const char *target, int flags);
#define MNT_DETACH 2
#define TMPFS 0x01021994 /* statfs(2)'s TMPFS_MAGIC */

static const char ROOT[] = "/tmp"; /* the new root is built on this, inside the new namespace */

/* An ordinary user's box maps that user to root inside, and nobody else. */
static void setup_user_map(uid_t inside, uid_t uid, gid_t gid)
{
	char text[64];
	const char *names[] = { "setgroups", "uid_map", "gid_map" };
	for (int i = 0; i < 3; i++) {
		char path[64];
		snprintf(path, sizeof path, "/proc/self/%s", names[i]);
		if (i == 0)
			snprintf(text, sizeof text, "deny");
		else
			snprintf(text, sizeof text, "%u %u 1", inside, i == 1 ? uid : gid);
		int file = open(path, O_WRONLY | O_CLOEXEC);
		if (file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text))
			die("cannot write %s", path);
		close(file);
	}
}

pid_t box_spawn(const struct config *config, int (*inside)(const struct config *))
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	uint64_t flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
	if (config->rootless)
		flags |= CLONE_NEWUSER;
	struct clone_args arguments = { .flags = flags, .exit_signal = SIGCHLD };
	pid_t child = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
	if (child < 0)
		die("cannot create namespaces");
	if (child)
		return child;
	/* The shim has one thread only, so this signal means what it says. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		die("cannot ask for a parent-death signal");
	if (config->rootless)
		setup_user_map(0, uid, gid);
	_exit(inside(config));
}

/* A detached read-only copy of a mount, taken before the old root goes away. */
static int clone_mount(const char *path, uint64_t attributes)
{
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, path,
				OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree < 0)
		return -1;
	struct mount_attr wanted = { .attr_set = attributes };
	if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &wanted,
		    sizeof wanted))
		die("cannot make %s read-only in the box", path);
	return tree;
}

static void make_directories(const char *path)
{
	char prefix[4096];
	snprintf(prefix, sizeof prefix, "%s", path);
	for (char *slash = prefix + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = 0;
		if (mkdir(prefix, 0755) && errno != EEXIST)
			die("cannot make %s", prefix);
		*slash = '/';
	}
	if (mkdir(prefix, 0755) && errno != EEXIST)
		die("cannot make %s", prefix);
}

static void in_root(char *buffer, size_t size, const char *path)
{
	if (snprintf(buffer, size, "%s%s", ROOT, path) >= (int)size) {
		errno = ENAMETOOLONG;
		die("path too long: %s", path);
	}
}

/* Shows a file or directory of the host at the same path; what the host lacks, the box lacks. */
static void show(const char *path, uint64_t attributes)
{
	struct stat status;
	char target[4096];
	in_root(target, sizeof target, path);
	if (lstat(path, &status))
		return;
	if (S_ISLNK(status.st_mode)) {
		char link[4096];
		ssize_t length = readlink(path, link, sizeof link - 1);
		if (length < 0)
			die("cannot read the link %s", path);
		link[length] = 0;
		if (symlink(link, target) && errno != EEXIST)
			die("cannot link %s", target);
		return;
	}
	int tree = clone_mount(path, attributes);
	if (tree < 0)
		die("cannot take %s into the box", path);
	if (S_ISDIR(status.st_mode)) {
		make_directories(target);
	} else {
		int file = open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (file < 0)
			die("cannot make %s", target);
		close(file);
	}
	if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH))
		die("cannot mount %s in the box", path);
	close(tree);
}

#define READ_ONLY (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)

/* The allow-list: toolchains and what they read. No /home, /root, /var, /opt, /srv, /usr/local. */
static void setup_toolchains(const struct config *config)
{
	static const char *const standard[] = {
		"/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32",
		"/usr/libexec", "/usr/include", "/usr/share", "/bin", "/sbin", "/lib", "/lib32",
		"/lib64", "/libx32", "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf",
		"/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types",
	};
	char path[4096];
	in_root(path, sizeof path, "/usr");
	make_directories(path);
	in_root(path, sizeof path, "/etc");
	make_directories(path);
	for (size_t i = 0; i < sizeof standard / sizeof *standard; i++)
		show(standard[i], READ_ONLY);
	for (size_t i = 0; i < config->mount_count; i++)
		show(config->mounts[i], READ_ONLY);
}

static void write_file(const char *path, const char *text)
{
	char target[4096];
	in_root(target, sizeof target, path);
	int file = open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text) || close(file))
		die("cannot write %s", target);
}

static void setup_etc(void)
{
	write_file("/etc/passwd", "root:x:0:0:root:/:/bin/false\n"
				  "program:x:1000:1000:program:/work:/bin/false\n");
	write_file("/etc/group", "root:x:0:\nprogram:x:1000:\n");
	write_file("/etc/hosts", "127.0.0.1 localhost box\n");
	write_file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n");
}

static void setup_devices(void)
{
	static const char *const devices[] = {
		"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom",
	};
	char path[4096];
	in_root(path, sizeof path, "/dev");
	make_directories(path);
	for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
		show(devices[i], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	static const char *const links[][2] = {
		{ "/proc/self/fd", "/dev/fd" }, { "/proc/self/fd/0", "/dev/stdin" },
		{ "/proc/self/fd/1", "/dev/stdout" }, { "/proc/self/fd/2", "/dev/stderr" },
	};
	for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
		in_root(path, sizeof path, links[i][1]);
		if (symlink(links[i][0], path))
			die("cannot link %s", links[i][1]);
	}
}

static void mount_tmpfs(const char *path, const char *options)
{
	char target[4096];
	in_root(target, sizeof target, path);
	make_directories(target);
	if (mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options))
		die("cannot mount a tmpfs on %s", path);
}

/* One tmpfs holds every place that a program may write, so that one statfs shows what it left. */
static void mount_scratch(const char *root, uint64_t bytes)
{
	static const char *const places[][2] = {
		{ "/.scratch/work", "/work" }, { "/.scratch/tmp", "/tmp" }, { "/.scratch/shm", "/dev/shm" },
	};
	char options[128], source[128], target[128];
	snprintf(options, sizeof options, "mode=0711,size=%llu,nr_inodes=65536",
		 (unsigned long long)bytes);
	snprintf(target, sizeof target, "%s/.scratch", root);
	if (mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options))
		die("cannot mount the scratch file system");
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		snprintf(source, sizeof source, "%s%s", root, places[i][0]);
		snprintf(target, sizeof target, "%s%s", root, places[i][1]);
		/* Sticky and owned by root: a run may fill it, but not change its mode or owner. */
		if (mkdir(source, 0755) || chmod(source, 01777))
			die("cannot open up %s", places[i][1]);
		if (mount(source, target, NULL, MS_BIND, NULL))
			die("cannot bind %s", places[i][1]);
	}
}

static void setup_scratch(const struct config *config)
{
	static const char *const empty[] = { "/.scratch", "/work", "/tmp", "/dev/shm" };
	char options[128], target[4096];
	for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
		in_root(target, sizeof target, empty[i]);
		make_directories(target);
	}
	mount_scratch(ROOT, config->scratch_bytes);
	in_root(target, sizeof target, "/var");
	make_directories(target);
	in_root(target, sizeof target, "/var/tmp");
	if (symlink("/tmp", target))
		die("cannot link /var/tmp");
	/* The submission has a file system of its own: a run that fills its scratch cannot hurt it. */
	snprintf(options, sizeof options, "mode=0755,size=%llu,nr_inodes=65536",
		 (unsigned long long)config->scratch_bytes);
	mount_tmpfs("/sub", options);
}

static void setup_root(void)
{
	char old[4096];
	in_root(old, sizeof old, "/.old");
	if (mkdir(old, 0700))
		die("cannot make %s", old);
	if (syscall(SYS_pivot_root, ROOT, old) || chdir("/"))
		die("cannot pivot into the new root");
	if (umount2("/.old", MNT_DETACH) || rmdir("/.old"))
		die("cannot let go of the old root");
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL))
		die("cannot make the root read-only");
}

static void mount_proc(const char *target)
{
	/* hidepid: a program sees its own processes and not even the runner's. */
	if (mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2"))
		die("cannot mount /proc in the box");
}

static void mask_proc(void)
{
	static const char *const masked[] = {
		"/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/kallsyms", "/proc/timer_list",
		"/proc/sysrq-trigger", "/proc/latency_stats", "/proc/sched_debug", "/proc/kmsg",
		"/proc/vmallocinfo", "/proc/slabinfo", "/proc/pagetypeinfo", "/proc/modules",
		"/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory",
		"/proc/pressure/irq", "/proc/cmdline", "/proc/diskstats", "/proc/interrupts",
	};
	for (size_t i = 0; i < sizeof masked / sizeof *masked; i++)
		if (mount("/dev/null", masked[i], NULL, MS_BIND, NULL) && errno != ENOENT)
			die("cannot mask %s", masked[i]);
	if (mount("/proc/sys", "/proc/sys", NULL, MS_BIND | MS_REC, NULL) ||
	    mount(NULL, "/proc/sys", NULL,
		  MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		die("cannot make /proc/sys read-only");
}

/* Keeps what the runner needs: to become the run's user, to remove and seal what runs left, and to
 * set limits and an out-of-memory score that a run cannot take back. */
static void drop_capabilities(void)
{
	uint32_t kept = 1U << CAP_CHOWN | 1U << CAP_DAC_OVERRIDE | 1U << CAP_FOWNER | 1U << CAP_KILL |
			1U << CAP_SETGID | 1U << CAP_SETUID;
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &header, data))
		die("cannot read capabilities");
	kept |= data[0].permitted & 1U << CAP_SYS_RESOURCE; /* not every container's root has it */
	for (unsigned capability = 0; capability <= CAP_LAST_CAP; capability++)
		if ((capability >= 32 || !(kept >> capability & 1)) &&
		    prctl(PR_CAPBSET_READ, capability) == 1 && prctl(PR_CAPBSET_DROP, capability))
			die("cannot drop a capability: the container must have none but CHOWN, "
			    "DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID and SYS_RESOURCE");
	memset(data, 0, sizeof data);
	data[0].effective = data[0].permitted = kept;
	if (syscall(SYS_capset, &header, data))
		die("cannot drop capabilities");
}

void box_enter(const struct config *config)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("cannot make the mounts private");
	if (mount("tmpfs", ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m"))
		die("cannot mount the new root");
	umask(0);
	setup_toolchains(config);
	setup_etc();
	setup_devices();
	setup_scratch(config);
	/* Before the old root goes: a user namespace may mount /proc only where it sees one already. */
	char proc[4096];
	in_root(proc, sizeof proc, "/proc");
	make_directories(proc);
	mount_proc(proc);
	setup_root();
	/* The kernel lets an ordinary user's run mount its own /proc only while this one is whole. */
	if (!config->rootless)
		mask_proc();
	if (sethostname("box", 3))
		die("cannot name the box");
	umask(022);
	/* A new session: no terminal to type into (TIOCSTI), no signals from the service's group. */
	if (setsid() < 0)
		die("cannot start a session");
	if (!config->rootless)
		drop_capabilities();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("cannot give up new privileges");
	/* Changing mounts and ids may have made us dumpable again. */
	if (prctl(PR_SET_DUMPABLE, 0))
		die("cannot become non-dumpable");
}

/* Inside a run of an ordinary user's box, which has a user, PID and mount namespace of its own:
 * every process has the same real uid there, so what the modes cannot protect, the mounts do. The
 * scratch places are new for each run, since their owner could leave messages in their modes. */
void box_mount_run_view(bool writable_submission, uint64_t scratch_bytes)
{
	setup_user_map(1000, 0, 0);
	mount_scratch("", scratch_bytes);
	if (mount("tmpfs", "/.scratch", "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY, "size=4k,mode=0"))
		die("cannot cover the scratch file system");
	if (!writable_submission &&
	    mount(NULL, "/sub", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL))
		die("cannot make /sub read-only");
	mount_proc("/proc");
	mask_proc();
}

static void must_be_tmpfs(const char *path)
{
	struct statfs status;
	if (statfs(path, &status))
		die("cannot look at %s", path);
	errno = 0;
	if (status.f_type != TMPFS)
		die("%s is not a tmpfs of the container", path);
}

/* Without a network there is no route, only the heading of their list. */
static void must_have_no_network(void)
{
	char text[4096];
	int file = open("/proc/net/route", O_RDONLY | O_CLOEXEC);
	ssize_t got = file < 0 ? -1 : read(file, text, sizeof text - 1);
	if (got < 0)
		die("cannot look at the container's network");
	close(file);
	text[got] = 0;
	char *end = strchr(text, '\n');
	errno = 0;
	if (end && end[1])
		die("the container has a network");
}

/* Where ids are mapped (an engine with user namespaces), runs get the last ones that there are. */
static void find_uids(struct config *config)
{
	unsigned inside, outside, count;
	FILE *map = fopen("/proc/self/uid_map", "re");
	if (!map || fscanf(map, "%u %u %u", &inside, &outside, &count) != 3)
		die("cannot read the container's user ids");
	fclose(map);
	if (config->uid_first + config->uid_count <= count)
		return;
	errno = 0;
	if (inside || count < 2 * config->uid_count)
		die("the container has %u user ids, too few", count);
	config->uid_first = count - config->uid_count;
}

/* A container that lacks a layer must not become a box. */
void box_check_container(struct config *config)
{
	static const char *const scratch[] = { "/work", "/tmp", "/dev/shm", "/sub" };
	errno = 0;
	if (getpid() != 1 || geteuid())
		die("the runner must be root and PID 1 of its container");
	if (!access("/", W_OK))
		die("the container's root is not read-only");
	for (size_t i = 0; i < sizeof scratch / sizeof *scratch; i++) {
		must_be_tmpfs(scratch[i]);
		/* Whatever mode the image's directory had: runc copies it. */
		if (chown(scratch[i], 0, 0) || chmod(scratch[i], strcmp(scratch[i], "/sub") ? 01777 : 0755))
			die("cannot open up %s", scratch[i]);
	}
	must_have_no_network();
	find_uids(config);
	umask(022);
	drop_capabilities();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("cannot give up new privileges");
	if (prctl(PR_SET_DUMPABLE, 0))
		die("cannot become non-dumpable");
}
