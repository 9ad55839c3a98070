/* What a program writes, taken from its pipe. */
#include "runner.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DRAIN_MAX (1 << 20) /* at one time: a writer must not keep us from its other limits */

static void keep(struct stream *stream, const uint8_t *bytes, size_t size)
{
	size_t room = stream->kept_max - stream->kept_size;
	size_t take = size < room ? size : room;
	if (!take)
		return;
	if (!stream->kept || take > stream->capacity - stream->kept_size) {
		size_t capacity = 2 * stream->capacity + size;
		uint8_t *kept = realloc(stream->kept, capacity);
		if (!kept)
			die("no memory for output");
		stream->kept = kept;
		stream->capacity = capacity;
	}
	memcpy(stream->kept + stream->kept_size, bytes, take);
	stream->kept_size += take;
}

/* Passes on what a pipe holds, unless what was passed on before still waits for room. */
enum drained stream_forward(struct stream *stream, uint32_t id)
{
	static uint8_t buffer[64 << 10];
	for (size_t taken = 0; taken < DRAIN_MAX && !frames_owed();) {
		ssize_t got = read(stream->fd, buffer, sizeof buffer);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? EMPTY : ENDED;
		taken += (size_t)got;
		stream->written += (uint64_t)got;
		frame_queue(OUTPUT, id, NULL, 0, buffer, (size_t)got);
		if (!frames_flush())
			_exit(0); /* the service is gone */
	}
	return MORE;
}

/* Takes what a pipe holds, without waiting. */
enum drained stream_drain(struct stream *stream)
{
	static uint8_t buffer[64 << 10];
	for (size_t taken = 0; taken < DRAIN_MAX; taken += sizeof buffer) {
		ssize_t got = read(stream->fd, buffer, sizeof buffer);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? EMPTY : ENDED;
		stream->written += (uint64_t)got;
		keep(stream, buffer, (size_t)got);
	}
	return MORE;
}
