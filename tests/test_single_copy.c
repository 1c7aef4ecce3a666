/* Where the system refuses to let ranks read each other's memory, as containers do, large messages
 * arrive without a word from Open MPI. A filter of system calls takes the container's place. */
#include "tests/ranks.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define BYTES (1 << 20)

/* process_vm_readv fails with EPERM from now on. False: this system has no filters. */
static bool refuse(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = { COUNT(filter), filter };

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

int main(int argc, char **argv)
{
    char *data = malloc(BYTES);
    FILE *said = tmpfile();
    const int screen = dup(STDERR_FILENO);
    struct world w;
    struct stat info;
    bool same = true;

    if (!refuse()) {
        printf("single-copy: no filters of system calls here: %s\n", strerror(errno));
        return 77;
    }
    unsetenv("OMPI_MCA_btl_vader_single_copy_mechanism");
    if (data == NULL || said == NULL || dup2(fileno(said), STDERR_FILENO) < 0 ||
        world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    for (int root = 0; root < w.size; root++) {
        memset(data, w.rank + 1, BYTES);
        world_broadcast(&w, data, BYTES, root);
        for (int i = 0; i < BYTES; i++)
            same = same && data[i] == root + 1;
    }
    dup2(screen, STDERR_FILENO);
    CHECK(same, "a message is wrong");
    CHECK(fstat(fileno(said), &info) == 0 && info.st_size == 0, "%lld bytes of errors",
          (long long)info.st_size);
    fclose(said);
    free(data);
    return ranks_end(&w, "single-copy");
}
