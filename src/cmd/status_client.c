/* status_client - see status_client.h. */
#include "cmd/status_client.h"

#include <curl/curl.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"

#define BODY_BYTES_MAX (64u << 20)
#define CONNECT_TIMEOUT_MS 3000L
#define TIMEOUT_MS 10000L

struct status_client {
    CURL *curl;
    struct curl_slist *headers;
    struct buf address, bearer, body;
};

static size_t on_bytes(char *data, size_t size, size_t count, void *ctx) {
    struct status_client *client = ctx;
    buf_add(&client->body, data, size * count);
    return buf_error(&client->body) ? 0 : size * count;
}

enum err status_client_open(const char *url, const char *path, const char *api_key,
                            struct err_text *text, struct status_client **out) {
    struct status_client *client = alloc_zero(1, sizeof *client);
    if (!client) return err_set(text, ERR_MEMORY, "out of memory");
    buf_init(&client->address, 4096);
    buf_init(&client->bearer, 4096);
    buf_init(&client->body, BODY_BYTES_MAX);
    size_t bytes = strlen(url);
    while (bytes && url[bytes - 1] == '/') bytes--;
    buf_add(&client->address, url, bytes);
    buf_add_string(&client->address, path);
    if (api_key) buf_add_format(&client->bearer, "authorization: Bearer %s", api_key);
    const char *address = buf_string(&client->address), *bearer = buf_string(&client->bearer);
    if (api_key && bearer) client->headers = curl_slist_append(NULL, bearer);
    client->curl = curl_easy_init();
    if (!client->curl || !address || (api_key && !client->headers)) {
        status_client_close(client);
        return err_set(text, ERR_MEMORY, "out of memory, or the URL is too long");
    }
    curl_easy_setopt(client->curl, CURLOPT_URL, address);
    curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, client->headers);
    curl_easy_setopt(client->curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(client->curl, CURLOPT_WRITEDATA, client);
    curl_easy_setopt(client->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(client->curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(client->curl, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
    *out = client;
    return ERR_OK;
}

void status_client_close(struct status_client *client) {
    if (!client) return;
    curl_easy_cleanup(client->curl);
    curl_slist_free_all(client->headers);
    buf_release(&client->address);
    buf_release(&client->bearer);
    buf_release(&client->body);
    alloc_free(client);
}

enum err status_client_get(struct status_client *client, struct err_text *text, json_t **out) {
    buf_clear(&client->body);
    const char *address = buf_string(&client->address);
    CURLcode code = curl_easy_perform(client->curl);
    long status = 0;
    curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_COULDNT_CONNECT)
        return err_set(text, ERR_PEER_GONE, "nobody answers at %s: give --url", address);
    if (code != CURLE_OK)
        return err_set(text, ERR_PEER_GONE, "%s: %s", address, curl_easy_strerror(code));
    if (status == 401)
        return err_set(text, ERR_IO, "%s wants a key: GRAMME_API_KEY or --api-key", address);
    if (status != 200)
        return err_set(text, ERR_IO, "%s answers with status %ld: no gramme?", address, status);
    json_t *root = json_loadb((const char *) client->body.data, client->body.bytes, 0, NULL);
    if (!root) return err_set(text, ERR_FORMAT, "%s: the answer is no JSON", address);
    *out = root;
    return ERR_OK;
}
