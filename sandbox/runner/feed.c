/* Feeds an interactive program: INPUT frames in, its standard input out, never waiting for it. */
#include "runner.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TELL (128U << 10) /* told of at once; the service may be 1 MiB ahead */

static void tell(struct feed *feed)
{
	uint32_t taken = htole32(feed->taken);
	feed->taken = 0;
	frame_queue(TAKEN, feed->id, &taken, sizeof taken, NULL, 0);
}

static void drop_frame(struct feed *feed)
{
	free(feed->frame.payload);
	feed->frame = (struct frame){ .payload = NULL };
	feed->written = 0;
}

void feed_close(struct feed *feed)
{
	if (feed->fd >= 0)
		close(feed->fd);
	feed->fd = -1;
	drop_frame(feed);
}

bool feed_waits(const struct feed *feed)
{
	return feed->fd >= 0 && feed->frame.payload;
}

/* Writes what there is and the pipe takes. Input that nobody can read any more is taken, too. */
void feed_write(struct feed *feed)
{
	while (feed->frame.payload || frame_take(INPUT, feed->id, &feed->frame)) {
		size_t left = feed->frame.size - feed->written;
		ssize_t taken = (ssize_t)left;
		if (feed->fd >= 0 && !feed->frame.size)
			feed_close(feed);
		else if (feed->fd >= 0)
			taken = write(feed->fd, feed->frame.payload + feed->written, left);
		if (taken < 0 && errno == EPIPE) {
			close(feed->fd);
			feed->fd = -1;
			continue;
		}
		if (taken < 0 && errno == EAGAIN)
			break;
		if (taken < 0 && errno != EINTR)
			die("cannot feed the program");
		if (taken < 0)
			continue;
		feed->written += (size_t)taken;
		feed->taken += (uint32_t)taken;
		if (feed->written >= feed->frame.size)
			drop_frame(feed);
	}
	if (feed->taken >= TELL)
		tell(feed);
}
