/* http_fuzz - the request parser on foreign bytes: whatever comes, it ends in one of its states,
 * and the way the bytes were split over reads changes nothing that it says. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "http/http_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct outcome {
    enum http_parse_status status;
    size_t taken;
    size_t body_bytes;
    uint32_t field_count;
    uint32_t path_at;
};

static struct outcome parse(const uint8_t *data, size_t bytes, size_t piece) {
    struct outcome outcome = {.status = HTTP_PARSE_MORE};
    struct http_request request;
    struct http_parse parser;
    http_request_init(&request);
    http_parse_init(&parser, &request, 2048, 512);
    while (outcome.taken < bytes && outcome.status != HTTP_PARSE_DONE &&
           outcome.status != HTTP_PARSE_REFUSED) {
        size_t step = bytes - outcome.taken < piece ? bytes - outcome.taken : piece;
        size_t taken = 0;
        outcome.status = http_parse_take(&parser, data + outcome.taken, step, &taken);
        CHECK(taken <= step);
        CHECK(taken == step || outcome.status != HTTP_PARSE_MORE);
        outcome.taken += taken;
    }
    if (outcome.status == HTTP_PARSE_DONE) {
        CHECK(request.body.bytes <= 512 && request.head.data);
        CHECK(!request.has_length || request.body.bytes == request.length_bytes);
        CHECK(!(request.has_length && request.is_chunked));
        const char *path = (const char *) request.head.data + request.path_at;
        CHECK(strlen(path) + 1 == request.query_at - request.path_at);
        CHECK(path[0] == '/' || path[0] == '*');
        outcome.body_bytes = request.body.bytes;
        outcome.field_count = request.field_count;
        outcome.path_at = request.path_at;
    }
    if (outcome.status == HTTP_PARSE_REFUSED) {
        CHECK(parser.status >= 400 && parser.status < 600 && parser.reason && *parser.reason);
        outcome.taken = 0; /* of two faults, which is seen first depends on the pieces */
    }
    if (outcome.status == HTTP_PARSE_HEAD) outcome.status = HTTP_PARSE_MORE;
    http_request_release(&request);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    for (int request = 0; request < 8 && bytes > 0; request++) {
        struct outcome whole = parse(data, bytes, bytes);
        static const size_t pieces[] = {1, 2, 7};
        for (size_t i = 0; i < 3; i++) {
            struct outcome split = parse(data, bytes, pieces[i]);
            CHECK(split.status == whole.status && split.taken == whole.taken);
            CHECK(split.body_bytes == whole.body_bytes);
            CHECK(split.field_count == whole.field_count && split.path_at == whole.path_at);
        }
        if (whole.status != HTTP_PARSE_DONE) break;
        data += whole.taken;
        bytes -= whole.taken;
    }
    return 0;
}
