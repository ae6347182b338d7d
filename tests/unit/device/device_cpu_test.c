/* device_cpu: threads and memory by affinity, cores, and cgroups of both versions, out of trees
 * of files made here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "device/device_cpu.h"

static char root[64];

static void put(const char *path, const char *content) {
    char full[512];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *at = full + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        mkdir(full, 0700);
        *at = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(content, file);
    fclose(file);
}

static int tree_make(void **state) {
    snprintf(root, sizeof root, "/tmp/device_cpu_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int tree_remove(void **state) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static struct device_cpu look(void) {
    char proc[80], cgroup[80], cpu[80];
    snprintf(proc, sizeof proc, "%s/proc", root);
    snprintf(cgroup, sizeof cgroup, "%s/cgroup", root);
    snprintf(cpu, sizeof cpu, "%s/cpu", root);
    struct device_cpu out;
    device_cpu_look(&(struct device_roots){proc, cgroup, cpu}, &out);
    return out;
}

/* Eight CPUs, four cores of two threads each; 16 GiB, half of it free. */
static void put_machine(const char *allowed) {
    char text[128];
    snprintf(text, sizeof text, "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t%s\n", allowed);
    put("proc/self/status", text);
    put("proc/meminfo", "MemTotal:       16777216 kB\nMemFree:  100 kB\n"
                        "MemAvailable:    8388608 kB\nCached: 1 kB\n");
    for (int i = 0; i < 8; i++) {
        snprintf(text, sizeof text, "cpu/cpu%d/topology/physical_package_id", i);
        put(text, "0\n");
        char core[16];
        snprintf(core, sizeof core, "%d\n", i % 4);
        snprintf(text, sizeof text, "cpu/cpu%d/topology/core_id", i);
        put(text, core);
    }
}

static void affinity_and_cores(void **state) {
    put_machine("0-7");
    struct device_cpu cpu = look();
    assert_int_equal(cpu.logical_count, 8);
    assert_int_equal(cpu.core_count, 4);
    assert_int_equal(cpu.thread_count, 4);
    assert_string_equal(cpu.thread_bound, "physical cores");
    assert_true(cpu.quota_cores == 0);
    assert_int_equal(cpu.memory_bytes, 16ull << 30);
    assert_int_equal(cpu.memory_available_bytes, 8ull << 30);
    put_machine("0,4,6-7");
    cpu = look();
    assert_int_equal(cpu.logical_count, 4);
    assert_int_equal(cpu.core_count, 3);
    put_machine("9-10"); /* CPUs of which the machine tells nothing: a core each */
    assert_int_equal(look().core_count, 2);
    put_machine("nonsense");
    assert_int_equal(look().thread_count, 1);
}

static void cgroup_v2_every_level_binds(void **state) {
    put_machine("0-7");
    put("proc/self/cgroup", "0::/slice/job\n");
    put("cgroup/slice/job/cpu.max", "max 100000\n");
    put("cgroup/slice/job/memory.max", "max\n");
    put("cgroup/slice/cpu.max", "350000 100000\n");
    put("cgroup/slice/memory.max", "4294967296\n");
    put("cgroup/slice/memory.current", "3221225472\n");
    put("cgroup/slice/memory.stat", "anon 1\ninactive_file 1073741824\n");
    struct device_cpu cpu = look();
    assert_int_equal(cpu.thread_count, 3);
    assert_string_equal(cpu.thread_bound, "cgroup cpu quota");
    assert_true(cpu.quota_cores == 3.5);
    assert_int_equal(cpu.memory_bytes, 4ull << 30);
    assert_int_equal(cpu.memory_available_bytes, 2ull << 30);
    assert_string_equal(cpu.memory_bound, "cgroup memory limit");
    assert_string_equal(device_cpu_describe(&cpu).text,
                        "3 threads (bound by cgroup cpu quota; 4 cores, 8 cpus, quota 3.50), 2.0 "
                        "of 4.0 GiB available (bound by cgroup memory limit)");
    put("cgroup/slice/job/cpu.max", "50000 100000\n"); /* half a core: still one thread */
    assert_int_equal(look().thread_count, 1);
    put("cgroup/slice/memory.current", "9221225472\n"); /* over its limit */
    assert_int_equal(look().memory_available_bytes, 0);
}

static void cgroup_v1(void **state) {
    put_machine("0-7");
    put("proc/self/cgroup", "9:name=systemd:/\n4:memory:/host/path\n3:cpu,cpuacct:/box\n0::/\n");
    put("cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "200000\n");
    put("cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
    /* In a container the path is the host's; the limit stands at the mount's root. */
    put("cgroup/memory/memory.limit_in_bytes", "2147483648\n");
    put("cgroup/memory/memory.usage_in_bytes", "1073741824\n");
    put("cgroup/memory/memory.stat", "total_inactive_file 0\n");
    struct device_cpu cpu = look();
    assert_int_equal(cpu.thread_count, 2);
    assert_int_equal(cpu.memory_bytes, 2ull << 30);
    assert_int_equal(cpu.memory_available_bytes, 1ull << 30);
    put("cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "-1\n");
    put("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    cpu = look();
    assert_int_equal(cpu.thread_count, 4);
    assert_int_equal(cpu.memory_bytes, 16ull << 30);
    assert_string_equal(cpu.memory_bound, "free memory");
}

static void broken_files_do_not_bind(void **state) {
    put_machine("0-7");
    put("proc/self/cgroup", "0::/a\nnonsense\n::\n5:cpu\n");
    put("cgroup/a/cpu.max", "12x 100000\n");
    put("cgroup/a/memory.max", "99999999999999999999999999\n");
    put("cgroup/cpu.max", "100000 0\n");
    struct device_cpu cpu = look();
    assert_int_equal(cpu.thread_count, 4);
    assert_int_equal(cpu.memory_bytes, 16ull << 30);
}

static void nothing_to_read(void **state) {
    struct device_cpu cpu = look();
    assert_true(cpu.thread_count >= 1);
    /* A bare chroot has memory all the same: the kernel tells without files. */
    assert_true(cpu.memory_bytes > 0 && cpu.memory_available_bytes > 0);
    assert_true(cpu.memory_available_bytes <= cpu.memory_bytes);
}

static void this_machine(void **state) {
    struct device_cpu cpu;
    device_cpu_look(NULL, &cpu);
    print_message("%s\n", device_cpu_describe(&cpu).text);
    assert_in_range(cpu.thread_count, 1, cpu.core_count);
    assert_in_range(cpu.core_count, 1, cpu.logical_count);
    assert_true(cpu.memory_bytes > 0 && cpu.memory_available_bytes <= cpu.memory_bytes);
    assert_true(cpu.has_avx2 || !cpu.has_avx512);
}

#define IN_TREE(test) cmocka_unit_test_setup_teardown(test, tree_make, tree_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_TREE(affinity_and_cores), IN_TREE(cgroup_v2_every_level_binds),
        IN_TREE(cgroup_v1),          IN_TREE(broken_files_do_not_bind),
        IN_TREE(nothing_to_read),    cmocka_unit_test(this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
