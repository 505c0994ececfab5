// A disk that fails, under a program that knows nothing of it: loaded with LD_PRELOAD, it traps the system calls that
// make, write, name and sync files (seccomp, so that no way around libc is missed), and lets those below ROOT fail as
// STATE/faults says. Of each sync that is not a lie it keeps what is durable from then on in STATE/durable: after a power
// cut there may be no more than that.
//
// STATE/faults has lines of three words: CALLS PART WHAT. CALLS are letters: w(rite), s(ync), c(reate), n(ame, by rename),
// r(oom, by fallocate). PART is in the path ("/" is in every one). WHAT is fail:ERRNO (not done), done:ERRNO (done, and
// reported as failed), full (what needs new blocks or a new file fails with ENOSPC), lie (a sync does nothing and says
// that it did), hang (nothing happens until the line is gone).
//
// Everything here runs on the thread that called, between two of its instructions, with system calls alone.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define REG(c, n) ((c)->uc_mcontext.gregs[n])
#define ARGS(c) {REG(c, REG_RDI), REG(c, REG_RSI), REG(c, REG_RDX), REG(c, REG_R10), REG(c, REG_R8), REG(c, REG_R9)}
#define RESULT(c) REG(c, REG_RAX)
static long call(long n, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#define REG(c, n) ((c)->uc_mcontext.regs[n])
#define ARGS(c) {REG(c, 0), REG(c, 1), REG(c, 2), REG(c, 3), REG(c, 4), REG(c, 5)}
#define RESULT(c) REG(c, 0)
static long call(long n, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "not known here"
#endif

// The sixth argument of calls that are not trapped; none of the trapped calls has one.
#define PASS 0x6b657972
#define DO(n, a, b, c, d) call(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, PASS)

// Room for a path of ours: ROOT and STATE are shorter.
#define PLACE_MAX (2 * PATH_MAX)

static char root[PATH_MAX], state[PATH_MAX];
static size_t root_len;
static int busy;

static void lock(void) {
    while (__atomic_exchange_n(&busy, 1, __ATOMIC_ACQUIRE)) {
        struct timespec wait = {0, 100000};
        nanosleep(&wait, NULL);
    }
}

static void unlock(void) { __atomic_store_n(&busy, 0, __ATOMIC_RELEASE); }

static int is_below(const char *path) {
    return strncmp(path, root, root_len) == 0 && (path[root_len] == '/' || path[root_len] == 0);
}

// The path of an open file; 0 if it is not below ROOT.
static int path_of(long fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%ld", fd);
    ssize_t len = readlink(link, path, PATH_MAX - 1);
    path[len < 0 ? 0 : len] = 0;
    return len > 0 && is_below(path);
}

// The path that a call names.
static int path_at(long dir, const char *name, char *path) {
    char from[PATH_MAX] = "";
    if (name[0] != '/') {
        if ((int)dir == AT_FDCWD) {
            if (!getcwd(from, sizeof from)) return 0;
        } else {
            path_of(dir, from);
        }
    }
    if (snprintf(path, PATH_MAX, "%s%s%s", from, name[0] == '/' ? "" : "/", name) >= PATH_MAX) return 0;
    return is_below(path);
}

// ---- what is durable ----

// What tells a file from all others, also from one that had its number before.
struct file { char kind, key[64]; };

static int look_at(const char *path, struct file *file) {
    struct statx found;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE | STATX_INO | STATX_BTIME, &found) != 0) return 0;
    file->kind = S_ISDIR(found.stx_mode) ? 'd' : S_ISREG(found.stx_mode) ? 'f' : 'o';
    snprintf(file->key, sizeof file->key, "%llu-%lld-%u", (unsigned long long)found.stx_ino,
             (long long)found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
    return 1;
}

static void kept_in(char *to, const char *kind, const struct file *file, const char *end) {
    snprintf(to, PLACE_MAX, "%s/durable/%s/%s%s", state, kind, file->key, end);
}

static int create(const char *path) {
    return DO(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static void keep_file(const char *path) {
    struct file file;
    char temporary[PLACE_MAX], to[PLACE_MAX];
    static char buffer[65536];
    ssize_t len;
    if (!look_at(path, &file) || file.kind != 'f') return;
    int from = DO(SYS_openat, AT_FDCWD, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (from < 0) return;
    kept_in(temporary, "files", &file, ".new");
    kept_in(to, "files", &file, "");
    int out = create(temporary);
    while ((len = read(from, buffer, sizeof buffer)) > 0) DO(SYS_write, out, buffer, len, 0);
    close(out);
    close(from);
    DO(SYS_renameat, AT_FDCWD, temporary, AT_FDCWD, to);
}

// Calls `visit` for each name in a directory.
static void each_in(const char *path, void (*visit)(const char *below, const char *name, int out), int out) {
    DIR *dir = opendir(path);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char below[PLACE_MAX];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        visit(below, entry->d_name, out);
    }
    closedir(dir);
}

static void write_name(const char *below, const char *name, int out) {
    struct file file;
    char line[PATH_MAX];
    if (!look_at(below, &file) || file.kind == 'o') return;
    int len = snprintf(line, sizeof line, "%c %s %s\n", file.kind, file.key, name);
    DO(SYS_write, out, line, len, 0);
}

// The names in a directory, each with what it is and which file it names.
static void keep_names(const char *path) {
    struct file file;
    char temporary[PLACE_MAX], to[PLACE_MAX];
    if (!look_at(path, &file)) return;
    kept_in(temporary, "names", &file, ".new");
    kept_in(to, "names", &file, "");
    int out = create(temporary);
    each_in(path, write_name, out);
    close(out);
    DO(SYS_renameat, AT_FDCWD, temporary, AT_FDCWD, to);
}

static void keep_all(const char *path);

static void keep_below(const char *below, const char *name, int out) {
    struct file file;
    (void)name, (void)out;
    if (!look_at(below, &file)) return;
    if (file.kind == 'd') keep_all(below);
    if (file.kind == 'f') keep_file(below);
}

static void keep_all(const char *path) {
    struct file file;
    char to[PLACE_MAX];
    each_in(path, keep_below, -1);
    keep_names(path);
    // Where to begin.
    if (look_at(path, &file) && strcmp(path, root) == 0) {
        snprintf(to, sizeof to, "%s/durable/root", state);
        int out = create(to);
        DO(SYS_write, out, file.key, strlen(file.key), 0);
        close(out);
    }
}

static void keep(long number, const char *path) {
    struct stat found;
    lock();
    if (number == SYS_syncfs) keep_all(root);
    else if (stat(path, &found) == 0 && S_ISDIR(found.st_mode)) keep_names(path);
    else keep_file(path);
    unlock();
}

// ---- what fails ----

enum what { WORKS, FAILS, DONE, FULL, LIE, HANG };

static enum what fault(char kind, const char *path, long *error) {
    char place[PLACE_MAX], text[4096];
    snprintf(place, sizeof place, "%s/faults", state);
    int file = DO(SYS_openat, AT_FDCWD, place, O_RDONLY | O_CLOEXEC, 0);
    if (file < 0) return WORKS;
    ssize_t len = read(file, text, sizeof text - 1);
    close(file);
    text[len < 0 ? 0 : len] = 0;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
        char calls[16], part[256], what[32];
        if (sscanf(line, "%15s %255s %31s", calls, part, what) != 3) continue;
        if (!strchr(calls, kind) || !strstr(path, part)) continue;
        if (sscanf(what, "fail:%ld", error) == 1) return FAILS;
        if (sscanf(what, "done:%ld", error) == 1) return DONE;
        if (!strcmp(what, "full")) return FULL;
        if (!strcmp(what, "lie")) return LIE;
        if (!strcmp(what, "hang")) return HANG;
    }
    return WORKS;
}

// Whether a call needs room that the file does not have yet.
static int needs_room(long number, const long *args, const char *path) {
    struct stat found;
    if (number == SYS_openat) return lstat(path, &found) != 0;
#ifdef SYS_mkdir
    if (number == SYS_mkdir) return 1;
#endif
    if (number == SYS_mkdirat) return 1;
    if (fstat(args[0], &found) != 0) return 1;
    long end;
    if (number == SYS_pwrite64) end = args[3] + args[2];
    else if (number == SYS_fallocate) end = args[2] + args[3];
    else if (number == SYS_write) end = lseek(args[0], 0, SEEK_CUR) + args[2];
    else return 0;
    return end > found.st_blocks * 512;
}

static long answer(long number, const long *args) {
    char path[PATH_MAX];
    char kind;
    int is_ours;
    switch (number) {
    case SYS_fsync: case SYS_fdatasync: case SYS_syncfs: kind = 's'; is_ours = path_of(args[0], path); break;
    case SYS_write: case SYS_pwrite64: kind = 'w'; is_ours = path_of(args[0], path); break;
    case SYS_fallocate: kind = 'r'; is_ours = path_of(args[0], path); break;
    case SYS_openat: case SYS_mkdirat: kind = 'c'; is_ours = path_at(args[0], (char *)args[1], path); break;
    case SYS_renameat: case SYS_renameat2: kind = 'n'; is_ours = path_at(args[2], (char *)args[3], path); break;
#ifdef SYS_mkdir
    case SYS_mkdir: kind = 'c'; is_ours = path_at(AT_FDCWD, (char *)args[0], path); break;
    case SYS_rename: kind = 'n'; is_ours = path_at(AT_FDCWD, (char *)args[1], path); break;
#endif
    default: return -ENOSYS;
    }
    long error = 0;
    enum what what = WORKS;
    while (is_ours && (what = fault(kind, path, &error)) == HANG) {
        struct timespec wait = {0, 5000000};
        nanosleep(&wait, NULL);
    }
    if (what == FAILS) return -error;
    if (what == LIE) return 0;
    if (what == FULL && needs_room(number, args, path)) return -ENOSPC;
    long result = call(number, args[0], args[1], args[2], args[3], args[4], PASS);
    if (is_ours && kind == 's' && result == 0) keep(number, path);
    return what == DONE && result >= 0 ? -error : result;
}

static void trapped(int signal, siginfo_t *info, void *context) {
    (void)signal;
    ucontext_t *at = context;
    long args[6] = ARGS(at);
    int kept = errno;
    RESULT(at) = answer(info->si_syscall, args);
    errno = kept;
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define TRAP_IF(number) IF(number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

__attribute__((constructor)) static void start(void) {
    const char *of = getenv("KEYRAIL_DISK_ROOT"), *in = getenv("KEYRAIL_DISK_STATE");
    if (!of || !in) return;
    snprintf(root, sizeof root, "%s", of);
    snprintf(state, sizeof state, "%s", in);
    root_len = strlen(root);
    keep_all(root);
    struct sock_filter filter[] = {
        LOAD(arch), IF(ARCH, 1, 0), ALLOW,
        LOAD(args[5]), IF(PASS, 0, 1), ALLOW,
        LOAD(nr),
        TRAP_IF(SYS_fsync), TRAP_IF(SYS_fdatasync), TRAP_IF(SYS_syncfs), TRAP_IF(SYS_write), TRAP_IF(SYS_pwrite64),
        TRAP_IF(SYS_fallocate), TRAP_IF(SYS_mkdirat), TRAP_IF(SYS_renameat), TRAP_IF(SYS_renameat2),
#ifdef SYS_mkdir
        TRAP_IF(SYS_mkdir), TRAP_IF(SYS_rename),
#endif
        IF(SYS_openat, 0, 3), LOAD(args[2]), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP), ALLOW,
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
    if (sigaction(SIGSYS, &action, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0) {
        fprintf(stderr, "the shim of the disk cannot be started: %s\n", strerror(errno));
        _exit(99);
    }
}
