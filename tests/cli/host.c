/* host.c - runs a command where the tests of the command need it.
 *
 *   host terminal COLUMNS COMMAND...     on a terminal that wide; what it shows to stdout
 *   host stop SIGNAL FOLDER COMMAND...   sends SIGNAL (a number) when a new file shows up in
 *                                        FOLDER; prints "exit N", "signal N" or "too late"
 *   host grown SIGNAL FILE BYTES COMMAND...   sends it when FILE has at least BYTES bytes;
 *                                        prints the same
 *   host begun SIGNAL FILE COMMAND...    sends it when FILE begins with another byte than 0;
 *                                        prints the same
 *   host shrink FILE BYTES FOLDER COMMAND...   makes FILE that short when a new file shows
 *                                        up in FOLDER, while COMMAND stands still; prints
 *                                        the same
 *   host cut FILE BYTES GROWN SIZE COMMAND...   makes FILE that short when GROWN has at
 *                                        least SIZE bytes, while COMMAND goes on; prints
 *                                        the same
 */
#define _XOPEN_SOURCE 700
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) {
    fprintf(stderr, "host: %s: %s\n", what, strerror(errno));
    exit(99);
}

static int run_on_terminal(int columns, char **command) {
    struct winsize size = {24, 0, 0, 0};
    char text[4096];
    ssize_t n;
    int status, master = posix_openpt(O_RDWR | O_NOCTTY);
    pid_t child;
    size.ws_col = (unsigned short)columns;
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) fail("terminal");
    child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        int slave;
        setsid();
        slave = open(ptsname(master), O_RDWR);
        if (slave < 0 || ioctl(slave, TIOCSWINSZ, &size) != 0) fail("terminal");
        dup2(slave, 0);
        dup2(slave, 1);
        dup2(slave, 2);
        execvp(command[0], command);
        fail(command[0]);
    }
    /* The last close of the other side shows as EIO. */
    while ((n = read(master, text, sizeof text)) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0 && fwrite(text, 1, (size_t)n, stdout) != (size_t)n) fail("stdout");
    }
    if (waitpid(child, &status, 0) != child) fail("wait");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int count_files(const char *folder) {
    DIR *files = opendir(folder);
    int n = 0;
    if (files == NULL) fail(folder);
    while (readdir(files) != NULL) n++;
    closedir(files);
    return n;
}

static long long size_of(const char *path) {
    struct stat found;
    return stat(path, &found) == 0 ? (long long)found.st_size : -1;
}

static pid_t start(char **command, int number) {
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        signal(number, SIG_DFL); /* a shell's background job starts with SIGINT ignored */
        execvp(command[0], command);
        fail(command[0]);
    }
    return child;
}

static int report_end(int status) {
    if (WIFEXITED(status)) printf("exit %d\n", WEXITSTATUS(status));
    if (WIFSIGNALED(status)) printf("signal %d\n", WTERMSIG(status));
    return 0;
}

/* What is waited for: a new file in a folder, or that a file has grown, or begins. */
typedef struct occasion {
    const char *folder, *file;
    int before, begins;
    long long bytes;
} occasion;

static int begins(const char *path) {
    char first = 0;
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    if (read(fd, &first, 1) != 1) first = 0;
    close(fd);
    return first != 0;
}

static int has_come(const occasion *of) {
    if (of->begins) return begins(of->file);
    if (of->file != NULL) return size_of(of->file) >= of->bytes;
    return count_files(of->folder) != of->before;
}

/* False: the child has ended first. */
static int wait_for(const occasion *of, pid_t child) {
    struct timespec pause = {0, 200000};
    int status;
    while (!has_come(of)) {
        if (waitpid(child, &status, WNOHANG) == child) {
            puts("too late");
            return 0;
        }
        nanosleep(&pause, NULL);
    }
    return 1;
}

static int run_and_stop(int number, const occasion *of, char **command) {
    pid_t child = start(command, number);
    int status;
    if (!wait_for(of, child)) return 0;
    kill(child, number);
    if (waitpid(child, &status, 0) != child) fail("wait");
    return report_end(status);
}

/* The child stands still meanwhile, unless it is in a call to wait for: a long write. */
static int run_and_shrink(const char *file, long long bytes, const occasion *of,
                          char **command) {
    pid_t child = start(command, SIGINT);
    int status;
    if (!wait_for(of, child)) return 0;
    if (of->file == NULL) {
        kill(child, SIGSTOP);
        if (waitpid(child, &status, WUNTRACED) != child) fail("wait");
        if (!WIFSTOPPED(status)) return report_end(status);
    }
    if (truncate(file, bytes) != 0) fail(file);
    kill(child, SIGCONT);
    if (waitpid(child, &status, 0) != child) fail("wait");
    return report_end(status);
}

int main(int argc, char **argv) {
    occasion of = {NULL, NULL, 0, 0};
    if (argc > 3 && strcmp(argv[1], "terminal") == 0)
        return run_on_terminal(atoi(argv[2]), argv + 3);
    if (argc > 4 && strcmp(argv[1], "stop") == 0) {
        of.folder = argv[3];
        of.before = count_files(of.folder);
        return run_and_stop(atoi(argv[2]), &of, argv + 4);
    }
    if (argc > 5 && strcmp(argv[1], "grown") == 0) {
        of.file = argv[3];
        of.bytes = atoll(argv[4]);
        return run_and_stop(atoi(argv[2]), &of, argv + 5);
    }
    if (argc > 4 && strcmp(argv[1], "begun") == 0) {
        of.file = argv[3];
        of.begins = 1;
        return run_and_stop(atoi(argv[2]), &of, argv + 4);
    }
    if (argc > 5 && strcmp(argv[1], "shrink") == 0) {
        of.folder = argv[4];
        of.before = count_files(of.folder);
        return run_and_shrink(argv[2], atoll(argv[3]), &of, argv + 5);
    }
    if (argc > 6 && strcmp(argv[1], "cut") == 0) {
        of.file = argv[4];
        of.bytes = atoll(argv[5]);
        return run_and_shrink(argv[2], atoll(argv[3]), &of, argv + 6);
    }
    fputs("usage: see the head of host.c\n", stderr);
    return 99;
}
