/* A FUSE file system of which stat differs at every call, for tests. It shows the files of a folder.

   Usage: unstable_fs mtime|inode|size FOLDER MOUNTPOINT -f
   mtime: every stat gives the current time. inode: every stat gives another inode.
   size: every stat gives the size 0. */

#define FUSE_USE_VERSION 31
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *kind, *folder;
static ino_t next_inode = 1000;

static int from_folder(const char *path, struct stat *st) {
    char real[4096];
    snprintf(real, sizeof real, "%s%s", folder, path);
    if (lstat(real, st))
        return -errno;
    if (!strcmp(kind, "mtime"))
        clock_gettime(CLOCK_REALTIME, &st->st_mtim), st->st_ctim = st->st_mtim;
    if (!strcmp(kind, "inode"))
        st->st_ino = ++next_inode;
    if (!strcmp(kind, "size") && S_ISREG(st->st_mode))
        st->st_size = 0;
    return 0;
}

static int unstable_getattr(const char *path, struct stat *st, struct fuse_file_info *file) {
    (void)file;
    return from_folder(path, st);
}

static int unstable_open(const char *path, struct fuse_file_info *file) {
    char real[4096];
    snprintf(real, sizeof real, "%s%s", folder, path);
    int fd = open(real, O_RDONLY);
    if (fd < 0)
        return -errno;
    close(fd);
    file->direct_io = 1;
    return 0;
}

static int unstable_read(const char *path, char *data, size_t size, off_t offset,
                         struct fuse_file_info *file) {
    (void)file;
    char real[4096];
    snprintf(real, sizeof real, "%s%s", folder, path);
    int fd = open(real, O_RDONLY);
    if (fd < 0)
        return -errno;
    int got = pread(fd, data, size, offset);
    close(fd);
    return got < 0 ? -EIO : got;
}

static void *unstable_init(struct fuse_conn_info *connection, struct fuse_config *config) {
    (void)connection;
    config->use_ino = 1;
    config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    kind = argv[1];
    folder = argv[2];
    static const struct fuse_operations operations = {
        .init = unstable_init,
        .getattr = unstable_getattr,
        .open = unstable_open,
        .read = unstable_read,
    };
    argv[2] = argv[0];
    return fuse_main(argc - 2, argv + 2, &operations, NULL);
}
