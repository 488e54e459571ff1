/* posix_memalign() whose blocks end right before a page that cannot be touched, as far as
 * their alignment allows: for tests on machines without AddressSanitizer. Linked with
 * -Wl,--wrap=posix_memalign,--wrap=free; what is freed is not used again. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

int __wrap_posix_memalign(void **out, size_t align, size_t bytes);
void __wrap_free(void *block);
void __real_free(void *block);

/* Blocks lie in one reservation, one after the other, round and round: a block that is
 * still in use after so many others would be overwritten, so that there are few at a
 * time. */
#define ARENA_BYTES ((size_t)32 << 20)

static uint8_t *arena;
static size_t next;

int __wrap_posix_memalign(void **out, size_t align, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room;
    uint8_t *p;
    if (align == 0 || (align & (align - 1)) != 0) return EINVAL;
    if (bytes > ARENA_BYTES / 8) return ENOMEM;
    room = (bytes + align + page - 1) / page * page;
    if (arena == NULL) {
        void *all = mmap(NULL, ARENA_BYTES, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == MAP_FAILED) return ENOMEM;
        arena = (uint8_t *)all;
    }
    if (next + room + page > ARENA_BYTES) next = 0;
    p = arena + next;
    if (mprotect(p, room, PROT_READ | PROT_WRITE) != 0) return ENOMEM;
    if (mprotect(p + room, page, PROT_NONE) != 0) return ENOMEM;
    next += room + page;
    p += room - bytes;
    *out = p - (uintptr_t)p % align;
    return 0;
}

void __wrap_free(void *block) {
    uint8_t *p = (uint8_t *)block;
    if (arena != NULL && p >= arena && p < arena + ARENA_BYTES) return;
    __real_free(block);
}
