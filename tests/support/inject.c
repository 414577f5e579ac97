/* Makes the Nth call of one kind fail in one process. Loaded with LD_PRELOAD by inject.py, which
   describes the memory that both share. Only the process whose number is in it is concerned; the
   first process that loads this where there is none yet. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* The headers that declare the functions below are not included: their names have variants. */
extern void *mmap(void *, size_t, int, int, int, off_t);
enum { READ_AND_WRITE = 3, SHARED = 1, OPEN_READ_WRITE_CLOEXEC = 02000002, SET_LEASE = 1024 };
enum { CREATE = 0100, TEMPORARY = 020000000 };

/* The order is that of KINDS in inject.py, from 1. */
enum kind {
    OPEN = 1, READ, STAT, RENAME, FSYNC, FLOCK, LEASE, GETXATTR, WRITE, STDERR, THREAD, PROCESS,
    EXEC, ACCEPT, BIND,
};

struct shared {
    long process, kind, nth, error, for_ever, count, failed;
};
static volatile struct shared *shared;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("INJECT");
    if (!path) return;
    int fd = syscall(SYS_openat, -100, path, OPEN_READ_WRITE_CLOEXEC, 0);
    if (fd < 0) return;
    void *found = mmap(0, sizeof(struct shared), READ_AND_WRITE, SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (found == (void *)-1) return;
    shared = found;
    if (!shared->process) shared->process = syscall(SYS_getpid);
}

/* The error that this call is to fail with, 0 for none. A new process runs a program in the place of
   the one that started it, so there it counts for that one. */
static int fails(enum kind kind) {
    if (!shared || shared->kind != kind) return 0;
    if (shared->process != syscall(kind == EXEC ? SYS_getppid : SYS_getpid)) return 0;
    long count = __sync_add_and_fetch(&shared->count, 1);
    if (count != shared->nth && !(shared->for_ever && count > shared->nth)) return 0;
    __sync_add_and_fetch(&shared->failed, 1);
    return shared->error;
}

/* Whether it is a regular file: what keeps an event loop going (eventfd, sockets) is not meant. */
static int is_file(int fd) {
    enum { EMPTY_PATH = 0x1000, STATX_TYPE = 1, REGULAR = 0100000, TYPES = 0170000 };
    unsigned short found[128]; /* struct statx, whose stx_mode is at byte 28 */
    if (fd <= 2 || syscall(SYS_statx, fd, "", EMPTY_PATH, STATX_TYPE, found)) return 0;
    return (found[14] & TYPES) == REGULAR;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define FAIL(kind) \
    do { int error = fails(kind); if (error) { errno = error; return -1; } } while (0)

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        int mode = 0; \
        if (flags & (CREATE | TEMPORARY)) { \
            va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); \
        } \
        FAIL(OPEN); \
        REAL(name); \
        return real(path, flags, mode); \
    }
OPENS(open) OPENS(open64)
#define OPENS_AT(name) \
    int name(int at, const char *path, int flags, ...) { \
        int mode = 0; \
        if (flags & (CREATE | TEMPORARY)) { \
            va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); \
        } \
        FAIL(OPEN); \
        REAL(name); \
        return real(at, path, flags, mode); \
    }
OPENS_AT(openat) OPENS_AT(openat64)

#define CALL(type, name, declared, given, kind, condition) \
    type name declared { \
        if (condition) FAIL(kind); \
        REAL(name); \
        return real given; \
    }
CALL(ssize_t, read, (int fd, void *to, size_t size), (fd, to, size), READ, is_file(fd))
CALL(ssize_t, pread, (int fd, void *to, size_t n, off_t at), (fd, to, n, at), READ, is_file(fd))
CALL(ssize_t, pread64, (int fd, void *to, size_t n, off_t at), (fd, to, n, at), READ, is_file(fd))
CALL(int, stat, (const char *path, void *to), (path, to), STAT, 1)
CALL(int, stat64, (const char *path, void *to), (path, to), STAT, 1)
CALL(int, lstat, (const char *path, void *to), (path, to), STAT, 1)
CALL(int, lstat64, (const char *path, void *to), (path, to), STAT, 1)
CALL(int, fstat, (int fd, void *to), (fd, to), STAT, is_file(fd))
CALL(int, fstat64, (int fd, void *to), (fd, to), STAT, is_file(fd))
CALL(int, fstatat, (int at, const char *p, void *to, int how), (at, p, to, how), STAT, 1)
CALL(int, fstatat64, (int at, const char *p, void *to, int how), (at, p, to, how), STAT, 1)
CALL(int, statx, (int at, const char *p, int how, unsigned what, void *to),
     (at, p, how, what, to), STAT, 1)
CALL(int, rename, (const char *from, const char *to), (from, to), RENAME, 1)
CALL(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), RENAME, 1)
CALL(int, fsync, (int fd), (fd), FSYNC, 1)
CALL(int, fdatasync, (int fd), (fd), FSYNC, 1)
CALL(int, flock, (int fd, int what), (fd, what), FLOCK, 1)
CALL(int, fcntl, (int fd, int what, void *how), (fd, what, how), LEASE, what == SET_LEASE)
CALL(int, fcntl64, (int fd, int what, void *how), (fd, what, how), LEASE, what == SET_LEASE)
CALL(ssize_t, getxattr, (const char *path, const char *name, void *to, size_t size),
     (path, name, to, size), GETXATTR, 1)
CALL(ssize_t, lgetxattr, (const char *path, const char *name, void *to, size_t size),
     (path, name, to, size), GETXATTR, 1)
CALL(ssize_t, fgetxattr, (int fd, const char *name, void *to, size_t size),
     (fd, name, to, size), GETXATTR, 1)
CALL(ssize_t, listxattr, (const char *path, char *to, size_t n), (path, to, n), GETXATTR, 1)
CALL(ssize_t, llistxattr, (const char *path, char *to, size_t n), (path, to, n), GETXATTR, 1)
CALL(ssize_t, flistxattr, (int fd, char *to, size_t n), (fd, to, n), GETXATTR, 1)
CALL(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t at), (fd, b, n, at), WRITE,
     is_file(fd))
CALL(ssize_t, pwrite64, (int fd, const void *b, size_t n, off_t at), (fd, b, n, at), WRITE,
     is_file(fd))
CALL(pid_t, fork, (void), (), PROCESS, 1)
CALL(int, execve, (const char *path, char *const given[], char *const environ[]),
     (path, given, environ), EXEC, 1)
CALL(int, execv, (const char *path, char *const given[]), (path, given), EXEC, 1)
CALL(int, execvp, (const char *path, char *const given[]), (path, given), EXEC, 1)
CALL(int, accept, (int fd, void *name, void *length), (fd, name, length), ACCEPT, 1)
CALL(int, accept4, (int fd, void *name, void *length, int how), (fd, name, length, how), ACCEPT, 1)
CALL(int, bind, (int fd, const void *name, unsigned length), (fd, name, length), BIND, 1)

ssize_t write(int fd, const void *from, size_t size) {
    if (fd == 2) FAIL(STDERR);
    else if (is_file(fd)) FAIL(WRITE);
    REAL(write);
    return real(fd, from, size);
}

/* To return twice through this one would spoil its stack; what vfork may do, fork does. */
pid_t vfork(void) {
    return fork();
}

/* These give the error back instead of setting errno. */
int pthread_create(void *thread, const void *how, void *(*run)(void *), void *with) {
    int error = fails(THREAD);
    if (error) return error;
    REAL(pthread_create);
    return real(thread, how, run, with);
}
int posix_spawn(void *pid, const char *path, const void *a, const void *b, void *c, void *d) {
    int error = fails(PROCESS);
    if (error) return error;
    REAL(posix_spawn);
    return real(pid, path, a, b, c, d);
}
int posix_spawnp(void *pid, const char *path, const void *a, const void *b, void *c, void *d) {
    int error = fails(PROCESS);
    if (error) return error;
    REAL(posix_spawnp);
    return real(pid, path, a, b, c, d);
}
