/* Gives every file of the folders to a fuzz target, with the bounds of fuzz.h.
 *     replay DIR... */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define TIME_S 10

static char running[600]; // the input, for the line when it ends the process

static void ended(int number)
{
    const char *what = number == SIGALRM ? ": takes too long\n" : ": ends the process\n";

    if (write(STDERR_FILENO, running, strlen(running)) < 0 ||
        write(STDERR_FILENO, what, strlen(what)) < 0)
        _exit(2);
    _exit(1);
}

static void replay(const char *path)
{
    FILE *f = fopen(path, "rb");
    static uint8_t bytes[1 << 16];
    uint8_t *exact; // so that a sanitizer sees the end
    size_t size;

    if (f == NULL) {
        perror(path);
        exit(1);
    }
    size = fread(bytes, 1, sizeof(bytes), f);
    fclose(f);
    exact = malloc(size + (size == 0));
    if (exact == NULL)
        exit(1);
    memcpy(exact, bytes, size);
    snprintf(running, sizeof(running), "%s", path);
    alarm(TIME_S);
    LLVMFuzzerTestOneInput(exact, size);
    alarm(0);
    free(exact);
}

static int replay_folder(const char *folder)
{
    struct dirent **names;
    const int n = scandir(folder, &names, NULL, alphasort);
    int count = 0;

    for (int i = 0; i < n; i++) {
        char path[600];

        snprintf(path, sizeof(path), "%s/%s", folder, names[i]->d_name);
        if (names[i]->d_name[0] != '.') {
            replay(path);
            count++;
        }
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return count;
}

int main(int argc, char **argv)
{
    static const int numbers[] = { SIGALRM, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
    const struct rlimit data = { 4 * FUZZ_MEMORY_BYTES, 4 * FUZZ_MEMORY_BYTES };
    int count = 0;

#if !defined(__SANITIZE_ADDRESS__) // which reports these itself, and maps much more
    for (size_t i = 0; i < COUNT(numbers); i++)
        signal(numbers[i], ended);
    if (setrlimit(RLIMIT_DATA, &data) != 0)
        perror("RLIMIT_DATA");
#endif
    for (int i = 1; i < argc; i++)
        count += replay_folder(argv[i]);
    printf("%d inputs, %d calls of readers that accepted theirs\n", count, fuzz_accepted);
    return count > 0 && fuzz_accepted > 0 ? 0 : 1;
}
