/* Stands between a program and the C library and watches what the program does to the files whose path begins with a
   given prefix: each write, truncation, sync and removal is counted, written to a log in the order in which it was
   made, and may be answered with a signal before it is done. One count for the whole process, whichever thread calls
   (strace counts per thread and call, so that some calls of the second thread cannot be named). Requests for SQLite's
   write lock have a count of their own, since only there a program can be stopped outside of a transaction.

   Loaded with LD_PRELOAD, idle until the program itself calls filewatch_begin: its workers, which inherit the
   environment, are not watched. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPENED = 1, WRITE, TRUNCATE, SYNC, UNLINK, NOTE };
enum { MOST_DESCRIPTORS = 4096 };

struct header {
    uint8_t operation;
    uint8_t unused;
    uint16_t path_length;
    uint32_t unused_too;
    int64_t offset;
    int64_t length;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char *prefix;
static char *paths[MOST_DESCRIPTORS];
static int log_fd = -1;
static long count, lock_count, signal_at;
static int signal_number;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The directory counts too: only its sync makes a new name, or a removal, last. */
static int is_watched(const char *path) {
    if (!prefix || !path) return 0;
    size_t directory = (size_t)(strrchr(prefix, '/') - prefix);
    return strncmp(path, prefix, strlen(prefix)) == 0 || (strncmp(path, prefix, directory) == 0 && !path[directory]);
}

static const char *path_of(int fd) { return prefix && fd >= 0 && fd < MOST_DESCRIPTORS ? paths[fd] : NULL; }

static void log_all(const void *data, size_t length) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = REAL(write);
    for (const char *at = data; length;) {
        ssize_t done = real(log_fd, at, length);
        if (done <= 0) abort();
        at += done;
        length -= (size_t)done;
    }
}

static void record(int operation, const char *path, int64_t offset, int64_t length, const void *data) {
    struct header header = {(uint8_t)operation, 0, (uint16_t)strlen(path), 0, offset, length};
    if (log_fd < 0) return;
    log_all(&header, sizeof header);
    log_all(path, header.path_length);
    if (data) log_all(data, (size_t)length);
}

/* Counts a call that is about to be made; sends the signal if it is the chosen one. Called with the mutex held. */
static void arrive(void) {
    if (++count == signal_at) kill(getpid(), signal_number);
}

/* `at` below zero: at the so-manieth request for the write lock. */
void filewatch_begin(const char *watched_prefix, int log, long at, int number) {
    prefix = strdup(watched_prefix);
    log_fd = log;
    signal_at = at;
    signal_number = number;
}

void filewatch_note(const char *text, long length) {
    pthread_mutex_lock(&mutex);
    record(NOTE, "", 0, length, text);
    pthread_mutex_unlock(&mutex);
}

static int opened(int fd, const char *path) {
    if (fd < 0 || fd >= MOST_DESCRIPTORS || !is_watched(path)) return fd;
    pthread_mutex_lock(&mutex);
    free(paths[fd]);
    paths[fd] = strdup(path);
    record(OPENED, path, 0, 0, NULL);
    pthread_mutex_unlock(&mutex);
    return fd;
}

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...) {                    \
        va_list rest;                                               \
        va_start(rest, flags);                                      \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;   \
        va_end(rest);                                               \
        return opened(REAL(name)(path, flags, mode), path);         \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    if (path_of(fd)) {
        pthread_mutex_lock(&mutex);
        free(paths[fd]);
        paths[fd] = NULL;
        pthread_mutex_unlock(&mutex);
    }
    return REAL(close)(fd);
}

#define WATCHED(operation, path, offset, length, data, call) \
    do {                                                     \
        pthread_mutex_lock(&mutex);                          \
        arrive();                                            \
        result = call;                                       \
        if (result >= 0) record(operation, path, offset, length, data); \
        pthread_mutex_unlock(&mutex);                        \
    } while (0)

#define PWRITE(name)                                                                         \
    ssize_t name(int fd, const void *data, size_t length, off64_t offset) {                  \
        const char *path = path_of(fd);                                                      \
        ssize_t result;                                                                      \
        if (!path) return REAL(name)(fd, data, length, offset);                              \
        WATCHED(WRITE, path, offset, result, data, REAL(name)(fd, data, length, offset));    \
        return result;                                                                       \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define TRUNCATING(name)                                                       \
    int name(int fd, off64_t length) {                                         \
        const char *path = path_of(fd);                                        \
        int result;                                                            \
        if (!path) return REAL(name)(fd, length);                              \
        WATCHED(TRUNCATE, path, length, 0, NULL, REAL(name)(fd, length));      \
        return result;                                                         \
    }
TRUNCATING(ftruncate)
TRUNCATING(ftruncate64)

#define SYNCING(name)                                                \
    int name(int fd) {                                               \
        const char *path = path_of(fd);                              \
        int result;                                                  \
        if (!path) return REAL(name)(fd);                            \
        WATCHED(SYNC, path, 0, 0, NULL, REAL(name)(fd));             \
        return result;                                               \
    }
SYNCING(fsync)
SYNCING(fdatasync)

/* SQLite's wal.c: the write lock of a WAL is byte 120 of the -shm file. */
enum { WRITE_LOCK_BYTE = 120 };

#define LOCKING(name)                                                                              \
    int name(int fd, int command, ...) {                                                           \
        va_list rest;                                                                              \
        va_start(rest, command);                                                                   \
        void *argument = va_arg(rest, void *);                                                     \
        va_end(rest);                                                                              \
        if (path_of(fd) && command == F_SETLK) {                                                   \
            const struct flock *lock = argument;                                                   \
            if (lock->l_type == F_WRLCK && lock->l_start == WRITE_LOCK_BYTE && lock->l_len == 1) { \
                pthread_mutex_lock(&mutex);                                                        \
                if (++lock_count == -signal_at) kill(getpid(), signal_number);                     \
                pthread_mutex_unlock(&mutex);                                                      \
            }                                                                                      \
        }                                                                                          \
        return REAL(name)(fd, command, argument);                                                  \
    }
LOCKING(fcntl)
LOCKING(fcntl64)

#define REMOVING(name)                                               \
    int name(const char *path) {                                     \
        int result;                                                  \
        if (!is_watched(path)) return REAL(name)(path);              \
        WATCHED(UNLINK, path, 0, 0, NULL, REAL(name)(path));         \
        return result;                                               \
    }
REMOVING(unlink)
REMOVING(rmdir)
