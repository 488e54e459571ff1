/* aq_fault.c - what happens when a mapped file becomes shorter: the system answers the next
 * look at the missing part with SIGBUS. Reading instead of mapping makes that an error like
 * any other; here it only has to be told, and the temporary output to go. */
#define _DEFAULT_SOURCE /* BUS_ADRALN */
#include "aq.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* What the handler prints, made before: it must not allocate. */
static buffer fault_line, fault_event;

static void write_all(int fd, const char *text, size_t size) {
    while (size != 0) {
        ssize_t n = write(fd, text, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        text += n;
        size -= (size_t)n;
    }
}

/* "/proc/self/fd/12" */
static void descriptor_path(char out[32], int fd) {
    static const char folder[] = "/proc/self/fd/";
    char digits[12];
    size_t n = 0, at = sizeof folder - 1;
    memcpy(out, folder, at);
    do {
        digits[n++] = (char)('0' + fd % 10);
        fd /= 10;
    } while (fd != 0);
    while (n != 0)
        out[at++] = digits[--n];
    out[at] = '\0';
}

/* ".aq-0123456789abcdef.tmp", as the library calls an output that nobody will resume. */
static bool is_temporary(const char *path) {
    static const char start[] = ".aq-", ending[] = ".tmp";
    size_t length = strlen(path), begin = length;
    while (begin != 0 && path[begin - 1] != '/')
        begin--;
    return length - begin == 24 && strncmp(path + begin, start, sizeof start - 1) == 0 &&
           strcmp(path + length - (sizeof ending - 1), ending) == 0;
}

/* Only this process has its temporary output open for writing. Where the system does not
 * say what a descriptor is, the file stays. */
static void remove_temporaries(void) {
    enum { MAX_DESCRIPTORS = 1024 };
    static char target[4096];
    char path[32];
    int fd;
    for (fd = 3; fd < MAX_DESCRIPTORS; fd++) {
        int flags = fcntl(fd, F_GETFL);
        ssize_t n;
        if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY) continue;
        descriptor_path(path, fd);
        n = readlink(path, target, sizeof target - 1);
        if (n <= 0 || (size_t)n == sizeof target - 1) continue;
        target[n] = '\0';
        if (is_temporary(target)) unlink(target);
    }
}

/* Only calls that POSIX allows in a handler. */
static void on_fault(int number, siginfo_t *info, void *context) {
    static bool told;
    (void)context;
    if (info->si_code <= 0 ||
        info->si_code == BUS_ADRALN) { /* sent, or a mistake of aq */
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    if (!__sync_bool_compare_and_swap(&told, false, true)) {
        for (;;)
            pause(); /* another thread tells it, and ends the process */
    }
    write_all(2, fault_line.data, fault_line.size);
    write_all(1, fault_event.data, fault_event.size);
    remove_temporaries();
    _exit(CLI_ERROR);
}

void fault_explain(char *out, size_t room, const char *what, bool has_io) {
    snprintf(out, room, "%s became shorter, or cannot be read, while it was mapped%s",
             what, has_io ? "; use --io read" : "");
}

void fault_guard(const char *subject, const char *what, bool has_io, bool events) {
    struct sigaction action;
    json event = {{NULL, 0, 0}, JSON_ONE_LINE, false};
    char message[128];
    signal(SIGBUS, SIG_DFL); /* until the texts are whole */
    buffer_free(&fault_line);
    buffer_free(&fault_event);
    fault_explain(message, sizeof message, what, has_io);
    buffer_print(&fault_line, "%s%saq:%s ",
                 term_code(stderr, TERM_PLAIN)[0] != '\0' ? "\r\033[K" : "",
                 term_code(stderr, TERM_RED), term_code(stderr, TERM_PLAIN));
    buffer_visible(&fault_line, subject, strlen(subject));
    buffer_print(&fault_line, ": %s\n", message);
    if (events) {
        json_open(&event, NULL, '{');
        json_string(&event, "event", "failed");
        json_string(&event, "file", subject);
        json_string(&event, "status", aq_status_name(AQ_E_IO));
        json_string(&event, "name", NULL);
        json_string(&event, "message", message);
        json_close(&event, '}');
        buffer_put(&event.text, "\n", 1);
        fault_event = event.text;
    }
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &action, NULL);
}
