/* What the files of the runner share. The theory of operation stands at the top of runner.c. */
#ifndef CUPEL_RUNNER_H
#define CUPEL_RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#define PROTOCOL_VERSION 2
#define MOUNTS_MAX 64
#define SECOND_NS 1000000000LL

/* How a box is built; filled from the command line by runner.c, read by everyone. */
struct config {
	bool rootless;           /* started by an ordinary user: box and runs get user namespaces */
	bool container;          /* a container engine has built the box, and we are its PID 1 */
	bool gvisor;             /* and its kernel is gVisor's, which lacks some of Linux's limits */
	bool seccomp;            /* false only if given up by name */
	const char *mounts[MOUNTS_MAX]; /* directories shown read-only besides the standard ones */
	size_t mount_count;
	uint64_t scratch_bytes;  /* size of the writable tmpfs */
	uid_t uid_first;         /* run number n gets uid_first + n % uid_count */
	uid_t uid_count;
	const char *cgroup_v2;   /* the box's own directory, or NULL */
	const char *cgroup_memory, *cgroup_pids, *cgroup_cpuacct; /* the same for v1, or NULL */
};

/* The sandbox's own fault: ends the box, with one line on stderr. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

int64_t clock_ns(void);

/* box.c: namespaces, root, devices, capabilities. */
pid_t box_spawn(const struct config *config, int (*inside)(const struct config *));
void box_enter(const struct config *config);
void box_check_container(struct config *config);
void box_mount_run_view(bool writable_submission, uint64_t scratch_bytes);

/* seccomp.c */
enum filter { FILTER_FULL, FILTER_FULL_WITH_CLONE3, FILTER_NO_NAMESPACES };
int seccomp_install(enum filter filter, bool with_ip);

/* cgroup.c: limits and accounting of the one run that is going. */
struct usage {
	int64_t cpu_ns;
	uint64_t memory_bytes;   /* peak since account_begin, its baseline taken off */
	uint64_t processes;      /* most seen at one time */
	bool out_of_memory;
};
void account_open(const struct config *config);      /* outside the new root: opens directories */
void account_begin(uint64_t memory_bytes, uint64_t processes, bool interactive);
int account_enter(void);                             /* in the child; 0 or errno */
int account_clone_fd(void);                          /* cgroup v2 directory for clone3, or -1 */
void account_started(pid_t pid);                     /* the program's own first instruction is near */
int64_t account_cpu_ns(void);                        /* so far */
bool account_limits_processes(void);                 /* false without cgroups: rlimits must do it */
bool account_over_memory(void);                      /* as far as account_sample has seen */
bool account_fork_storm(void);                       /* likewise */
void account_sample(void);
int64_t account_sample_ns(void);                     /* how often it must be called */
void account_kill(void);
void account_reaped(const struct rusage *usage_of_child);
struct usage account_end(void);
void account_recycle(void);

/* files.c */
void files_open(void);
const char *files_put(const char *path, const uint8_t *content, size_t size, bool executable);
const char *files_get(const char *path, uint64_t max_bytes, uint8_t **content, size_t *size);
int files_open_below(int base, const char *path, int flags, mode_t mode);
bool files_empty_directory(int directory);           /* whether it held anything */
int files_open_input(const char *path);              /* fd for reading, or -1 and errno */
void files_lend_submission(uid_t uid, gid_t gid);
void files_seal_submission(void);
bool files_wipe_scratch(void);                       /* whether there was anything to wipe */
uint64_t files_scratch_bytes(bool one_file_system);  /* how much the scratch places hold */
void files_wipe_submission(void);

/* protocol.c */
struct frame {
	uint8_t type;
	uint32_t id;
	uint8_t *payload;        /* malloc'ed; the reader frees it */
	size_t size;
};
bool frame_read(struct frame *frame);                /* false at the end of the control pipe */
bool frames_poll_input(void);                        /* reads what is there; false at the end */
bool frames_have_room(void);
bool frame_cancelled(uint32_t id);
bool frame_take(uint8_t type, uint32_t id, struct frame *frame); /* the next, if it is that one */
bool frame_next(struct frame *frame);                /* the next, if it is all there */
void frame_queue(uint8_t type, uint32_t id, const void *head, size_t head_size, const void *body,
		 size_t body_size);                  /* sent by frames_flush, without waiting */
bool frames_owed(void);                              /* whether what was queued still waits for room */
bool frames_flush(void);                             /* false: nobody is left to read it */
void frames_wait(void);                              /* until nothing is owed */
void frame_send(uint8_t type, uint32_t id, const void *head, size_t head_size,
		const void *body, size_t body_size, const void *tail, size_t tail_size);
void frames_start(void);

enum request { PUT = 1, GET = 2, RUN = 3, RESET = 4, CANCEL = 5, STATISTICS = 6, STREAM = 7, INPUT = 8 };
enum reply {
	HELLO = 100, DONE = 101, REFUSED = 102, CONTENT = 103, OUTCOME = 104, CANCELLED = 105,
	COUNTS = 106, OUTPUT = 107, TAKEN = 108,
};

/* request.c: a RUN, PUT or GET, decoded. */
#define WORDS_MAX 512
enum tag { /* of the fields of a request; see protocol.c */
	PATH = 1, BYTES = 2, EXECUTABLE = 3, MAX_BYTES = 4,
	ARGV = 10, ENVIRONMENT, STDIN, STDIN_PATH, CPU_NS, WALL_NS, MEMORY_BYTES, PROCESSES,
	OUTPUT_BYTES, STDERR_BYTES, FILE_BYTES, OPEN_FILES, STACK_BYTES, MEMORY_BASELINE_BYTES,
	WRITABLE_SUBMISSION,
	OPEN_STDIN, /* of the agent's EXEC */
	TAGS_END,
};

/* Pointers lead into the frame, where each value is followed by a NUL that request_decode() puts
 * there (over the next field's tag, which it has read by then). */
struct request_fields {
	char *argv[WORDS_MAX + 1], *environment[WORDS_MAX + 1];
	size_t argc, environment_count;
	const char *path, *stdin_path;
	const uint8_t *bytes;
	size_t size;
	uint64_t number[TAGS_END];
	bool interactive;        /* a STREAM */
};

extern struct request_fields request;                /* there is one at a time */
const char *request_decode(const struct frame *frame); /* NULL, or what is wrong */

/* spawn.c */
struct spawn_report { /* what the child tells its parent */
	int error;               /* errno of the step that failed, 0 if the program was started */
	char step[64];
	/* Written by the init of an ordinary user's run: */
	volatile int64_t started_ns, ended_ns;
	volatile int64_t setup_cpu_ns; /* what the init itself used until then */
	volatile int status;
};
extern struct spawn_report *spawn_report;
void spawn_start(const struct config *config);
int spawn_open_stdin(void);
pid_t spawn(int in, int out, int err, uid_t uid);

/* stream.c */
struct stream { /* what a program writes to a pipe: its head is kept, all of it is counted */
	int fd;
	uint8_t *kept;
	size_t kept_size, kept_max, capacity;
	uint64_t written;
};
enum drained { ENDED, EMPTY, MORE };                 /* ENDED: nobody can write to it any more */
enum drained stream_drain(struct stream *stream);
enum drained stream_forward(struct stream *stream, uint32_t id); /* MORE: also if there is no room */

/* feed.c */
struct feed { /* the standard input of an interactive program, as it comes in */
	uint32_t id;
	int fd;                  /* the pipe's end to write to; -1 once it is closed */
	struct frame frame;      /* what is being written */
	size_t written;          /* of it */
	uint32_t taken;          /* bytes that the service has not been told of */
};
bool feed_waits(const struct feed *feed);            /* for room in the pipe */
void feed_write(struct feed *feed);
void feed_close(struct feed *feed);

/* run.c */
enum limit {
	LIMIT_NONE, LIMIT_CPU, LIMIT_WALL, LIMIT_MEMORY, LIMIT_OUTPUT, LIMIT_FILE_SIZE,
	LIMIT_PROCESSES,
};
void run_start(const struct config *config);
void run_serve(const struct frame *frame);

/* janitor.c */
int janitor(int count, char **directories);

/* agent.c, processes.c, work.c, archive.c: the program of a session, which is untrusted */
int agent(void);
void processes_kill(pid_t leader, bool leader_ended); /* a command by its first process */
uint32_t processes_count(void);                      /* but the agent and PID 1 */
void archive_save(int work, uint64_t max_bytes);
void archive_load(int work);
_Noreturn void work_fail(const char *what, const char *why);
void work_read(int work, const char *path, uint64_t max_bytes);
void work_write(int work, const char *path, uint64_t size, bool executable);
void work_list(int work, const char *path);

#endif
