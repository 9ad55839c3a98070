/* Decoding requests; protocol.c says what they look like. */
#include "runner.h"

#include <endian.h>
#include <string.h>

struct request_fields request;

const char *request_decode(const struct frame *frame)
{
	memset(&request, 0, sizeof request);
	request.interactive = frame->type == STREAM;
	uint8_t *at = frame->payload, *end = frame->payload + frame->size;
	uint8_t tag = at < end ? *at : 0;
	while (at < end) {
		uint32_t size;
		if (end - at < 5)
			return "a field is cut off";
		memcpy(&size, at + 1, 4);
		size = le32toh(size);
		uint8_t *value = at + 5;
		if ((size_t)(end - value) < size)
			return "a field is cut off";
		at = value + size;
		uint8_t next = at < end ? *at : 0;
		*at = 0; /* frame_read leaves a byte behind the payload for this */
		if (tag == ARGV || tag == ENVIRONMENT) {
			size_t *count = tag == ARGV ? &request.argc : &request.environment_count;
			if (*count == WORDS_MAX)
				return "too many words";
			if (strlen((char *)value) != size)
				return "a word holds a NUL byte";
			(tag == ARGV ? request.argv : request.environment)[(*count)++] = (char *)value;
		} else if (tag == PATH || tag == STDIN_PATH) {
			if (strlen((char *)value) != size)
				return "a path holds a NUL byte";
			*(tag == PATH ? &request.path : &request.stdin_path) = (char *)value;
		} else if (tag == BYTES || tag == STDIN) {
			request.bytes = value;
			request.size = size;
		} else if (tag < TAGS_END && size == 8) {
			uint64_t number;
			memcpy(&number, value, 8);
			request.number[tag] = le64toh(number);
		} else {
			return "an unknown field";
		}
		tag = next;
	}
	return NULL;
}
