/* Frames between the service and the runner, version 2.
 *
 * A frame is: size u32 (of what follows), type u8, id u32, payload; all integers little-endian.
 * A request's payload is a list of fields: tag u8, size u32, value. Numbers are u64.
 *
 *   PUT     path=1 content=2 [executable=3]                     -> DONE | REFUSED
 *   GET     path=1 max_bytes=4                                  -> CONTENT | REFUSED
 *   RUN     argv=10 (repeated) environment=11 (repeated) stdin=12 or stdin_path=13 cpu_ns=14
 *           wall_ns=15 memory_bytes=16 processes=17 output_bytes=18 stderr_bytes=19 file_bytes=20
 *           open_files=21 stack_bytes=22 memory_baseline_bytes=23 writable_submission=24
 *                                                               -> OUTCOME | REFUSED | CANCELLED
 *   STREAM  as RUN, without stdin                               -> OUTPUT... TAKEN... then as RUN
 *   INPUT   id = the STREAM that is going, payload = bytes for its standard input; none: its end
 *   RESET                                                       -> DONE
 *   STATISTICS                                                  -> COUNTS
 *   CANCEL  id = the last RUN that is no longer wanted          (no answer of its own)
 *
 * The runner begins with HELLO (version u32). REFUSED carries a line of text. OUTCOME and COUNTS: see
 * run.c.
 * Requests are answered in order; CANCEL alone is heeded as soon as it arrives, and INPUT while its
 * STREAM is going, unless another request stands before it.
 *
 * A STREAM's output is sent as it is read (OUTPUT, payload = the bytes) and not kept. TAKEN (u32) says
 * how many more bytes of input the program's pipe has taken, or that have nobody to read them any
 * more. The service sends no more than 1 MiB beyond what was taken: so a program that does not read
 * never keeps a CANCEL from being read here. TAKEN is sent for every 128 KiB, not for every byte.
 *
 * Neither side can block the other for ever: while the runner waits for room to answer, it goes on
 * reading requests, up to INPUT_MAX bytes beyond the frame that is arriving.
 */
#include "runner.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define HEADER 9
#define FRAME_MAX (1U << 30)
#define INPUT_MAX (64U << 20)
#define READ_CHUNK (256U << 10)

static struct {
	uint8_t *data;
	size_t begin, end, capacity;
	size_t scanned;          /* frames before this offset were looked at for CANCEL */
	bool ended;
} input;

static struct { /* what was queued and has not been written */
	uint8_t *data;
	size_t begin, end, capacity;
} owed;

static uint32_t cancelled_through;

static uint32_t get_u32(const uint8_t *bytes)
{
	uint32_t value;
	memcpy(&value, bytes, sizeof value);
	return le32toh(value);
}

void frames_start(void)
{
	for (int file = 0; file < 2; file++)
		if (fcntl(file, F_SETFL, O_NONBLOCK))
			die("cannot make the control pipes non-blocking");
}

/* The size of the frame at OFFSET if it is all there, else 0. */
static size_t whole_frame(size_t offset)
{
	if (input.end - offset < HEADER)
		return 0;
	size_t size = (size_t)get_u32(input.data + offset) + 4;
	if (size < HEADER || size > FRAME_MAX) {
		errno = 0;
		die("a frame of %zu bytes", size);
	}
	return input.end - offset >= size ? size : 0;
}

static void scan_for_cancel(void)
{
	size_t size;
	while ((size = whole_frame(input.scanned))) {
		const uint8_t *frame = input.data + input.scanned;
		if (frame[4] == CANCEL && get_u32(frame + 5) > cancelled_through)
			cancelled_through = get_u32(frame + 5);
		input.scanned += size;
	}
}

bool frames_have_room(void)
{
	return !input.ended &&
	       (input.end - input.begin < INPUT_MAX || input.scanned == input.begin);
}

static void make_room(void)
{
	if (input.begin == input.end)
		input.begin = input.end = input.scanned = 0;
	if (input.capacity - input.end >= READ_CHUNK)
		return;
	if (input.begin) {
		memmove(input.data, input.data + input.begin, input.end - input.begin);
		input.end -= input.begin;
		input.scanned -= input.begin;
		input.begin = 0;
	}
	if (input.capacity - input.end < READ_CHUNK) {
		size_t capacity = 2 * input.capacity + READ_CHUNK;
		uint8_t *data = realloc(input.data, capacity);
		if (!data)
			die("no memory for requests");
		input.data = data;
		input.capacity = capacity;
	}
}

bool frames_poll_input(void)
{
	while (frames_have_room()) {
		make_room();
		ssize_t got = read(STDIN_FILENO, input.data + input.end, input.capacity - input.end);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN)
			break;
		if (got <= 0) {
			input.ended = true;
			break;
		}
		input.end += (size_t)got;
		scan_for_cancel();
	}
	return !input.ended;
}

bool frame_cancelled(uint32_t id)
{
	return id <= cancelled_through;
}

static void take(struct frame *frame, size_t size)
{
	const uint8_t *bytes = input.data + input.begin;
	frame->type = bytes[4];
	frame->id = get_u32(bytes + 5);
	frame->size = size - HEADER;
	frame->payload = malloc(frame->size + 1);
	if (!frame->payload)
		die("no memory for a request");
	memcpy(frame->payload, bytes + HEADER, frame->size);
	frame->payload[frame->size] = 0;
	input.begin += size;
	if (input.scanned < input.begin)
		input.scanned = input.begin;
}

bool frame_read(struct frame *frame)
{
	size_t size;
	while (!(size = whole_frame(input.begin))) {
		struct pollfd ready = { .fd = STDIN_FILENO, .events = POLLIN };
		if (!frames_poll_input())
			return false;
		if (whole_frame(input.begin))
			continue;
		if (poll(&ready, 1, -1) < 0 && errno != EINTR)
			die("cannot wait for requests");
	}
	take(frame, size);
	return true;
}

bool frame_next(struct frame *frame)
{
	size_t size = whole_frame(input.begin);
	if (size)
		take(frame, size);
	return size > 0;
}

bool frame_take(uint8_t type, uint32_t id, struct frame *frame)
{
	if (!whole_frame(input.begin))
		return false;
	const uint8_t *bytes = input.data + input.begin;
	return bytes[4] == type && get_u32(bytes + 5) == id && frame_next(frame);
}

static void wait_for_room(void)
{
	struct pollfd ready[2] = { { .fd = STDOUT_FILENO, .events = POLLOUT },
				   { .fd = STDIN_FILENO, .events = POLLIN } };
	if (poll(ready, frames_have_room() ? 2 : 1, -1) < 0 && errno != EINTR)
		die("cannot wait for room to answer");
	if (!frames_poll_input())
		_exit(0); /* nobody is left to answer */
}

static void put_header(uint8_t header[HEADER], uint8_t type, uint32_t id, size_t payload_size)
{
	uint32_t size = htole32((uint32_t)(HEADER - 4 + payload_size)), number = htole32(id);
	memcpy(header, &size, 4);
	header[4] = type;
	memcpy(header + 5, &number, 4);
}

static void owe(const void *bytes, size_t size)
{
	if (size > owed.capacity - owed.end) {
		size_t capacity = 2 * owed.capacity + size;
		uint8_t *data = realloc(owed.data, capacity);
		if (!data)
			die("no memory for answers");
		owed.data = data;
		owed.capacity = capacity;
	}
	if (size)
		memcpy(owed.data + owed.end, bytes, size);
	owed.end += size;
}

void frame_queue(uint8_t type, uint32_t id, const void *head, size_t head_size, const void *body,
		 size_t body_size)
{
	uint8_t header[HEADER];
	put_header(header, type, id, head_size + body_size);
	owe(header, HEADER);
	owe(head, head_size);
	owe(body, body_size);
}

bool frames_owed(void)
{
	return owed.begin < owed.end;
}

bool frames_flush(void)
{
	while (owed.begin < owed.end) {
		ssize_t sent = write(STDOUT_FILENO, owed.data + owed.begin, owed.end - owed.begin);
		if (sent < 0 && errno == EPIPE)
			return false;
		if (sent < 0 && errno == EAGAIN)
			return true;
		if (sent < 0 && errno != EINTR)
			die("cannot answer");
		if (sent > 0)
			owed.begin += (size_t)sent;
	}
	owed.begin = owed.end = 0;
	return true;
}

void frames_wait(void)
{
	while (frames_owed()) {
		if (!frames_flush())
			_exit(0);
		if (frames_owed())
			wait_for_room();
	}
}

void frame_send(uint8_t type, uint32_t id, const void *head, size_t head_size, const void *body,
		size_t body_size, const void *tail, size_t tail_size)
{
	uint8_t header[HEADER];
	frames_wait();
	put_header(header, type, id, head_size + body_size + tail_size);
	struct iovec parts[4] = {
		{ header, HEADER },
		{ (void *)(uintptr_t)head, head_size },
		{ (void *)(uintptr_t)body, body_size },
		{ (void *)(uintptr_t)tail, tail_size },
	};
	for (int part = 0; part < 4;) {
		ssize_t sent = writev(STDOUT_FILENO, parts + part, 4 - part);
		if (sent < 0 && errno == EPIPE)
			_exit(0);
		if (sent < 0 && errno == EAGAIN)
			wait_for_room();
		else if (sent < 0 && errno != EINTR)
			die("cannot answer");
		for (size_t left = sent > 0 ? (size_t)sent : 0; part < 4;) {
			if (left < parts[part].iov_len) {
				parts[part].iov_base = (uint8_t *)parts[part].iov_base + left;
				parts[part].iov_len -= left;
				break;
			}
			left -= parts[part].iov_len;
			part++;
		}
	}
}
