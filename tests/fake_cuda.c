/* A CUDA driver for tests. Device memory is the process's own; a stream does its work when it is waited for; whatever is called in a thread without the
   context, with an address or a stream that is not (or no longer) its own, or past a block's end, is refused as the real driver refuses it.

   FAKE_CUDA_FAIL=NAME=STATUS[@N] lets the N-th call of a function, and later ones, fail. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, INVALID_HANDLE = 400 };

struct block { char *at; size_t size; struct block *next; };
struct copy { void *to; const void *from; size_t size; struct copy *next; };
struct stream { struct copy *first; struct stream *next; };

static int started, retained, given_back_in_vain;
static char context;
static __thread void *current;
static struct block *blocks;
static struct stream *streams;

static int failing(const char *name) {
    static int calls;
    const char *asked = getenv("FAKE_CUDA_FAIL");
    size_t length = strlen(name);
    if (!asked || strncmp(asked, name, length) || asked[length] != '=') return 0;
    const char *from = strchr(asked, '@');
    return ++calls >= (from ? atoi(from + 1) : 1) ? atoi(asked + length + 1) : 0;
}

#define CALL(name) do { int status = failing(#name); if (status) return status; if (!started) return NOT_INITIALIZED; } while (0)
#define WITH_CONTEXT do { if (!retained || current != &context) return INVALID_CONTEXT; } while (0)

static int inside(uint64_t address, size_t size) {
    for (struct block *item = blocks; item; item = item->next)
        if ((char *)address >= item->at && (char *)address + size <= item->at + item->size) return 1;
    return 0;
}

static int known(struct stream *stream) {
    for (struct stream *item = streams; item; item = item->next)
        if (item == stream) return 1;
    return 0;
}

static int later(struct stream *stream, void *to, const void *from, size_t size) {
    if (!known(stream)) return INVALID_HANDLE;
    struct copy *item = malloc(sizeof *item), **last = &stream->first;
    *item = (struct copy){to, from, size, NULL};
    while (*last) last = &(*last)->next;
    *last = item;
    return 0;
}

int fake_flush(struct stream *stream) { /* what a kernel on the stream finds done */
    if (!known(stream)) return INVALID_HANDLE;
    while (stream->first) {
        struct copy *item = stream->first;
        memcpy(item->to, item->from, item->size);
        stream->first = item->next;
        free(item);
    }
    return 0;
}

int fake_left(void) { /* what was not given back, or was although it was nobody's */
    int left = retained + given_back_in_vain;
    for (struct block *item = blocks; item; item = item->next) left++;
    for (struct stream *item = streams; item; item = item->next) left++;
    return left;
}

int cuInit(unsigned flags) {
    int status = failing("cuInit");
    started = !status && !flags;
    return status;
}
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetErrorName(int status, const char **name) {
    *name = status == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : status == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : NULL;
    return *name ? 0 : INVALID_VALUE;
}
int cuDeviceGetCount(int *count) { CALL(cuDeviceGetCount); *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { CALL(cuDeviceGet); *device = ordinal; return ordinal ? 101 : 0; }
int cuDeviceGetName(char *name, int size, int device) { CALL(cuDeviceGetName); snprintf(name, size, "Fake GPU"); return device; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    CALL(cuDeviceGetAttribute);
    if (device || (attribute != 75 && attribute != 76)) return INVALID_VALUE;
    *value = attribute == 75 ? 8 : 9;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **held, int device) { CALL(cuDevicePrimaryCtxRetain); *held = &context; retained++; return device; }
int cuDevicePrimaryCtxRelease_v2(int device) {
    CALL(cuDevicePrimaryCtxRelease_v2);
    if (!retained) { given_back_in_vain++; return INVALID_CONTEXT; }
    retained--;
    return device;
}
int cuCtxSetCurrent(void *held) { CALL(cuCtxSetCurrent); if (held && held != &context) return INVALID_CONTEXT; current = held; return 0; }
int cuStreamCreate(struct stream **stream, unsigned flags) {
    CALL(cuStreamCreate);
    WITH_CONTEXT;
    if (flags > 1) return INVALID_VALUE;
    *stream = calloc(1, sizeof **stream);
    (*stream)->next = streams;
    streams = *stream;
    return 0;
}
int cuStreamDestroy_v2(struct stream *stream) {
    CALL(cuStreamDestroy_v2);
    WITH_CONTEXT;
    for (struct stream **item = &streams; *item; item = &(*item)->next)
        if (*item == stream) { *item = stream->next; return 0; }
    return INVALID_HANDLE;
}
int cuStreamSynchronize(struct stream *stream) { CALL(cuStreamSynchronize); WITH_CONTEXT; return fake_flush(stream); }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    CALL(cuMemAlloc_v2);
    WITH_CONTEXT;
    if (!size) return INVALID_VALUE;
    if (size > (size_t)1 << 30) return OUT_OF_MEMORY;
    struct block *item = malloc(sizeof *item);
    *item = (struct block){malloc(size), size, blocks};
    memset(item->at, 0xff, size); /* not a number, until something is put there */
    blocks = item;
    *address = (uint64_t)item->at;
    return 0;
}
int cuMemFree_v2(uint64_t address) {
    CALL(cuMemFree_v2);
    WITH_CONTEXT;
    for (struct block **item = &blocks; *item; item = &(*item)->next)
        if ((*item)->at == (char *)address) { free((*item)->at); *item = (*item)->next; return 0; }
    return INVALID_VALUE;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, struct stream *stream) {
    CALL(cuMemcpyHtoDAsync_v2);
    WITH_CONTEXT;
    return inside(to, size) ? later(stream, (void *)to, from, size) : INVALID_VALUE;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, struct stream *stream) {
    CALL(cuMemcpyDtoHAsync_v2);
    WITH_CONTEXT;
    return inside(from, size) ? later(stream, to, (void *)from, size) : INVALID_VALUE;
}
