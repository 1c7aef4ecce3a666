/* Limits of control groups, in described trees of /proc and /sys, and on this machine. */
#include "launch/cgroup.h"
#include "tests/scratch.h"

#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const char *machine; // folder of the described machine

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    CHECK(f != NULL && fputs(text, f) >= 0 && fclose(f) == 0, "%s", path);
}

/* Writes /`path` of the described machine, and the folders that lead to it. */
static void file(const char *path, const char *text)
{
    char full[1024];

    snprintf(full, sizeof(full), "%s/%s", machine, path);
    for (char *at = full + strlen(machine) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = 0;
        mkdir(full, 0700);
        *at = '/';
    }
    write_file(full, text);
}

/* Describes another machine, with 100 GiB of memory. */
static void begin(const char *name, const char *cgroup, const char *mountinfo)
{
    machine = scratch_path(name);
    mkdir(machine, 0700);
    file("proc/meminfo", "MemTotal:       134217728 kB\nMemAvailable:   104857600 kB\n");
    file("proc/self/cgroup", cgroup);
    file("proc/self/mountinfo", mountinfo);
}

static void expect(double gib, double cpus)
{
    const double got = (double)cgroup_memory(machine) / (1 << 30);

    CHECK(fabs(got - gib) < 1e-9, "%s: %.3f GiB, not %.3f", machine, got, gib);
    CHECK(cgroup_cpus(machine) == cpus, "%s: %g CPUs, not %g", machine, cgroup_cpus(machine), cpus);
}

#define GIB_8 "8589934592\n"
#define GIB_3 "3221225472\n"
#define GIB_2 "2147483648\n"
#define GIB_1 "1073741824\n"

#define V2 "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"

/* Slurm's groups of version 2: the limit is at the job, and the process is three groups below. */
static void test_slurm(void)
{
#define JOB "sys/fs/cgroup/system.slice/slurmstepd.scope/job_12"
    begin("slurm", "0::/system.slice/slurmstepd.scope/job_12/step_0/user/task_0\n",
          "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" V2);
    expect(100, 0);
    file(JOB "/memory.max", GIB_8);
    file(JOB "/memory.current", GIB_3);
    file(JOB "/memory.stat", "anon 1\nactive_file 0\ninactive_file 0\n");
    file(JOB "/step_0/user/task_0/memory.max", "max\n");
    file(JOB "/step_0/user/task_0/memory.current", GIB_2);
    file(JOB "/cpu.max", "200000 100000\n");
    file(JOB "/step_0/user/task_0/cpu.max", "max 100000\n");
    expect(5, 2);
    // files that were read stay in memory until it is needed; 'file' also counts shared memory
    file(JOB "/memory.stat", "anon 1\nfile 3221225472\nactive_file 1073741824\n"
                             "inactive_file 1073741824\nslab_reclaimable 0\n");
    expect(7, 2);
    file(JOB "/step_0/memory.high", GIB_3);
    file(JOB "/step_0/memory.max", GIB_8);
    file(JOB "/step_0/memory.current", GIB_2);
    expect(1, 2);
    file(JOB "/step_0/cpu.max", "50000 100000\n");
    file(JOB "/step_0/memory.current", GIB_8); // over the limit already
    expect(0, 0.5);
#undef JOB
}

/* Docker with a cgroup namespace: the container's group looks like the root of the tree. */
static void test_docker(void)
{
    begin("docker", "0::/\n", V2);
    file("sys/fs/cgroup/memory.max", GIB_2);
    file("sys/fs/cgroup/memory.current", GIB_1);
    file("sys/fs/cgroup/cpu.max", "150000 100000\n");
    expect(1, 1.5);
    // a process that was moved into another group, which this namespace does not see
    begin("outside", "0::/../other\n", V2);
    file("sys/fs/cgroup/memory.max", GIB_2);
    file("sys/fs/cgroup/memory.current", GIB_1);
    expect(1, 0);
}

/* Version 1, one tree for each controller. Without a namespace the container's group is mounted at
 * the root, but the process's group is named from the host's root. */
static void test_version_1(void)
{
#define UNLIMITED "9223372036854771712\n"
    begin("docker-1",
          "11:memory:/docker/4f2a\n4:cpu,cpuacct:/docker/4f2a/part\n1:name=systemd:/docker/4f2a\n",
          "40 30 0:31 /docker/4f2a /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
          "41 30 0:32 /docker/4f2a /sys/fs/cgroup/my\\040memory ro master:9 - cgroup cgroup "
          "rw,memory\n"
          "42 30 0:33 /docker/4f2a /sys/fs/cgroup/systemd ro - cgroup cgroup rw,name=systemd\n");
    expect(100, 0);
    file("sys/fs/cgroup/my memory/memory.limit_in_bytes", GIB_8);
    file("sys/fs/cgroup/my memory/memory.usage_in_bytes", GIB_3);
    file("sys/fs/cgroup/my memory/memory.stat",
         "inactive_file 5\ntotal_inactive_file 1073741824\n");
    file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n");
    file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    file("sys/fs/cgroup/cpu,cpuacct/part/cpu.cfs_quota_us", "-1\n");
    file("sys/fs/cgroup/cpu,cpuacct/part/cpu.cfs_period_us", "100000\n");
    expect(6, 3);
    // the limit of a group above the mounted one
    file("sys/fs/cgroup/my memory/memory.limit_in_bytes", UNLIMITED);
    file("sys/fs/cgroup/my memory/memory.stat", "hierarchical_memory_limit " GIB_2);
    file("sys/fs/cgroup/my memory/memory.usage_in_bytes", GIB_1);
    expect(1, 3);

    // Slurm: /slurm/uid_0/job_1/step_0; both versions mounted, the controllers in the first
    begin("slurm-1", "9:memory:/slurm/uid_0/job_1/step_0/task_1\n0::/\n",
          "32 31 0:35 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
          "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    file("sys/fs/cgroup/memory/memory.limit_in_bytes", UNLIMITED);
    file("sys/fs/cgroup/memory/memory.usage_in_bytes", GIB_8);
    file("sys/fs/cgroup/memory/slurm/uid_0/job_1/memory.limit_in_bytes", GIB_3);
    file("sys/fs/cgroup/memory/slurm/uid_0/job_1/memory.usage_in_bytes", GIB_1);
    expect(2, 0);
}

/* Files that are missing, cut or strange are no limits. */
static void test_odd(void)
{
    machine = scratch_path("nothing");
    CHECK(cgroup_memory(machine) == -1 && cgroup_cpus(machine) == 0, "no /proc");
    begin("odd", "0\n0:\n:::\n\n0::\n", "a\n30 23 0:26 / /x - cgroup2\n31 2 3 - cgroup\n" V2);
    file("sys/fs/cgroup/memory.max", "");
    file("sys/fs/cgroup/memory.current", "x\n");
    file("sys/fs/cgroup/cpu.max", "");
    expect(100, 0);
    file("sys/fs/cgroup/cpu.max", "100000 0\n");
    expect(100, 0);
}

/* This machine: a real group of version 1 below this process's, if one can be made. */
static void test_here(void)
{
    const char *group = "/sys/fs/cgroup/memory/wanmpi-test-cgroup";
    const int64_t all = cgroup_memory("");
    char path[256], number[32];
    int64_t limited = 0;
    int ends[2], child;

    CHECK(all > 1 << 20, "%lld bytes", (long long)all);
    if (mkdir(group, 0700) != 0 || pipe(ends) != 0) {
        printf("no control group can be made here: only described ones are tested\n");
        return;
    }
    snprintf(path, sizeof(path), "%s/memory.limit_in_bytes", group);
    write_file(path, "104857600");
    child = fork();
    if (child == 0) {
        snprintf(path, sizeof(path), "%s/cgroup.procs", group);
        snprintf(number, sizeof(number), "%d", (int)getpid());
        write_file(path, number);
        limited = cgroup_memory("");
        _exit(write(ends[1], &limited, sizeof(limited)) != sizeof(limited));
    }
    CHECK(read(ends[0], &limited, sizeof(limited)) == sizeof(limited), "no answer");
    waitpid(child, NULL, 0);
    CHECK(limited > 50 << 20 && limited <= 100 << 20, "%lld bytes", (long long)limited);
    close(ends[0]);
    close(ends[1]);
    CHECK(rmdir(group) == 0, "%s stays", group);
}

int main(void)
{
    char command[320];

    if (!scratch_open("cgroup"))
        return 1;
    test_slurm();
    test_docker();
    test_version_1();
    test_odd();
    test_here();
    snprintf(command, sizeof(command), "rm -r '%s'/*", scratch);
    CHECK(system(command) == 0, "%s", command);
    scratch_close();
    return check_end("cgroup");
}
