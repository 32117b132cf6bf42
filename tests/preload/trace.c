/* A layer between a process and its disk: writes down, in order, what the process does to the
 * files below one directory, with the data. tests/src/crash_store/ replays it and decides what a
 * power cut would have left.
 *
 * Preloaded with LD_PRELOAD; MILLRACE_TRACE_ROOT names the directory, MILLRACE_TRACE_FILE the
 * file to append to. One lock is held around each operation and its entry, so the order of the
 * entries is the order of the operations. A sync is written down and not done: nothing here is
 * meant to survive, and what it makes durable is for the replay to say. What this layer cannot
 * follow ends the process; what passes it by unseen is found out when the replay of everything is
 * compared with the directory.
 *
 * An entry: u32 kind, i32 fd, u64 a, u64 b, u32 bytes of name, u32 bytes of data, name, data, in
 * the byte order of the machine. tests/src/crash_store/trace.rs reads it and lists the kinds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN = 1, CLOSE, WRITE, FILL, LENGTH, SYNC, DATASYNC, RANGE, MKDIR, RENAME, UNLINK, RMDIR };

#define FDS 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_bytes;
static int trace = -1;
static unsigned char traced[FDS];

/* The next definition of a function, that of libc. */
#define REAL(name) ((__typeof__(&name))real(#name))

static void die(const char *what) {
    dprintf(2, "trace: %s\n", what);
    abort();
}

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        die(name);
    return found;
}

__attribute__((constructor)) static void start(void) {
    const char *below = getenv("MILLRACE_TRACE_ROOT"), *file = getenv("MILLRACE_TRACE_FILE");
    if (!below || !file || !realpath(below, root))
        die("MILLRACE_TRACE_ROOT and MILLRACE_TRACE_FILE must be set");
    root_bytes = strlen(root);
    trace = REAL(open)(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (trace < 0)
        die("cannot open MILLRACE_TRACE_FILE");
}

static int is_traced(int fd) { return 0 <= fd && fd < FDS && traced[fd]; }

/* Writes `path` as seen from the root into `name` and returns it, or NULL for one not below it. */
static const char *below(int dir, const char *path, char name[PATH_MAX]) {
    char whole[PATH_MAX * 2];
    if (trace < 0)
        return NULL;
    if (path[0] == '/') {
        snprintf(whole, sizeof whole, "%s", path);
    } else if (dir == AT_FDCWD) {
        return NULL; /* callers use absolute paths */
    } else {
        char link[64], parent[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t bytes = readlink(link, parent, sizeof parent - 1);
        if (bytes < 0)
            return NULL;
        parent[bytes] = 0;
        snprintf(whole, sizeof whole, "%s/%s", parent, path);
    }
    if (strncmp(whole, root, root_bytes) != 0)
        return NULL;
    if (whole[root_bytes] == 0)
        return strcpy(name, "");
    if (whole[root_bytes] != '/')
        return NULL;
    return strcpy(name, whole + root_bytes + 1);
}

static void entry(enum kind kind, int fd, uint64_t a, uint64_t b, const char *name,
                  const void *data, size_t data_bytes) {
    struct {
        uint32_t kind;
        int32_t fd;
        uint64_t a, b;
        uint32_t name_bytes, data_bytes;
    } head = {kind, fd, a, b, name ? strlen(name) : 0, data_bytes};
    struct iovec parts[] = {
        {&head, sizeof head}, {(void *)name, head.name_bytes}, {(void *)data, data_bytes}};
    size_t whole = sizeof head + head.name_bytes + data_bytes;
    int before = errno;
    if (REAL(writev)(trace, parts, 3) != (ssize_t)whole)
        die("cannot write the trace");
    errno = before;
}

/* A long run of one byte, with which sled wipes segments, is written down as such. */
static void entry_write(int fd, uint64_t at, const void *data, size_t bytes) {
    if (1024 <= bytes && memcmp(data, (const char *)data + 1, bytes - 1) == 0)
        entry(FILL, fd, at, bytes, NULL, data, 1);
    else
        entry(WRITE, fd, at, 0, NULL, data, bytes);
}

/* --- names ------------------------------------------------------------------------------- */

static int opened(int dir, const char *path, int flags, mode_t mode) {
    char name[PATH_MAX];
    if (!below(dir, path, name))
        return REAL(openat)(dir, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat there;
    int before = errno;
    int is_new = (flags & O_CREAT) && fstatat(dir, path, &there, 0) != 0;
    errno = before;
    int fd = REAL(openat)(dir, path, flags, mode);
    if (0 <= fd) {
        if (FDS <= fd)
            die("too many files");
        traced[fd] = 1;
        entry(OPEN, fd, flags, is_new, name, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE                                                                                       \
    mode_t mode = 0;                                                                               \
    if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {                                          \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode = va_arg(rest, mode_t);                                                               \
        va_end(rest);                                                                              \
    }

int open(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE return opened(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE return opened(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) {
    return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) {
    pthread_mutex_lock(&lock);
    if (is_traced(fd)) {
        entry(CLOSE, fd, 0, 0, NULL, NULL, 0);
        traced[fd] = 0;
    }
    int done = REAL(close)(fd);
    pthread_mutex_unlock(&lock);
    return done;
}

/* Does `call`, and writes the entry down if it succeeded and the path is one of ours. */
#define NAMED(dir, path, call, kind, data, data_bytes)                                             \
    char name[PATH_MAX];                                                                           \
    if (!below(dir, path, name))                                                                   \
        return call;                                                                               \
    pthread_mutex_lock(&lock);                                                                     \
    int done = call;                                                                               \
    if (done == 0)                                                                                 \
        entry(kind, -1, 0, 0, name, data, data_bytes);                                             \
    pthread_mutex_unlock(&lock);                                                                   \
    return done;

int mkdirat(int dir, const char *path, mode_t mode) {
    NAMED(dir, path, REAL(mkdirat)(dir, path, mode), MKDIR, NULL, 0)
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int dir, const char *path, int flags) {
    NAMED(dir, path, REAL(unlinkat)(dir, path, flags), (flags & AT_REMOVEDIR) ? RMDIR : UNLINK, NULL, 0)
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    char target[PATH_MAX];
    if (!below(to_dir, to, target))
        target[0] = 0;
    NAMED(from_dir, from, REAL(renameat)(from_dir, from, to_dir, to), RENAME, target, strlen(target))
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

/* --- content ----------------------------------------------------------------------------- */

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) {
    if (!is_traced(fd))
        return REAL(pwrite)(fd, data, bytes, at);
    pthread_mutex_lock(&lock);
    ssize_t done = REAL(pwrite)(fd, data, bytes, at);
    if (0 < done)
        entry_write(fd, at, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at) {
    return pwrite(fd, data, bytes, at);
}

ssize_t write(int fd, const void *data, size_t bytes) {
    if (!is_traced(fd))
        return REAL(write)(fd, data, bytes);
    pthread_mutex_lock(&lock);
    ssize_t done = REAL(write)(fd, data, bytes);
    if (0 < done) {
        /* Where it ended is known afterwards, also of a file that is appended to. */
        off_t end = lseek(fd, 0, SEEK_CUR);
        if (end < done)
            die("a write to something that has no offset");
        entry_write(fd, end - done, data, done);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t length) {
    if (!is_traced(fd))
        return REAL(ftruncate)(fd, length);
    pthread_mutex_lock(&lock);
    int done = REAL(ftruncate)(fd, length);
    if (done == 0)
        entry(LENGTH, fd, length, 0, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

/* The caller falls back to reading and writing, which is seen. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t bytes,
                        unsigned flags) {
    if (!is_traced(to))
        return REAL(copy_file_range)(from, from_at, to, to_at, bytes, flags);
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile64(int to, int from, off64_t *from_at, size_t bytes) {
    ssize_t (*next)(int, int, off64_t *, size_t) = real("sendfile64");
    if (!is_traced(to))
        return next(to, from, from_at, bytes);
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile(int to, int from, off_t *from_at, size_t bytes) {
    return sendfile64(to, from, from_at, bytes);
}

/* --- syncs ------------------------------------------------------------------------------- */

static int synced(enum kind kind, int fd) {
    pthread_mutex_lock(&lock);
    entry(kind, fd, 0, 0, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd) { return is_traced(fd) ? synced(SYNC, fd) : REAL(fsync)(fd); }
int fdatasync(int fd) { return is_traced(fd) ? synced(DATASYNC, fd) : REAL(fdatasync)(fd); }
int sync_file_range(int fd, off64_t at, off64_t bytes, unsigned flags) {
    return is_traced(fd) ? synced(RANGE, fd) : REAL(sync_file_range)(fd, at, bytes, flags);
}

/* --- what cannot be followed ------------------------------------------------------------- */

#define REFUSED(result, name, parameters, arguments, fd)                                           \
    result name parameters {                                                                       \
        if (is_traced(fd))                                                                         \
            die(#name " cannot be followed");                                                      \
        return REAL(name) arguments;                                                               \
    }

REFUSED(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), fd)
REFUSED(ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at),
        (fd, parts, count, at), fd)
REFUSED(int, fallocate, (int fd, int mode, off_t at, off_t bytes), (fd, mode, at, bytes), fd)
REFUSED(int, posix_fallocate, (int fd, off_t at, off_t bytes), (fd, at, bytes), fd)
REFUSED(int, dup, (int fd), (fd), fd)
REFUSED(int, dup2, (int fd, int to), (fd, to), fd)
REFUSED(int, dup3, (int fd, int to, int flags), (fd, to, flags), fd)
