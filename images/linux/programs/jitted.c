// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Makes its code itself, as a just-in-time compiler does, and says so in /tmp/perf-PID.map: of its time, 60 percent go to
 * jit_hot, which is told at once, 30 to jit_warm, which is told later, and 10 to code that is not told at all.
 *
 * jitted MILLISECONDS [link|twice|strange|old]: the map is a link to a file; it has a second name; it is another user's; it was
 * last written before the process began.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A user that is neither root nor runs anything. */
#define STRANGER 12345

enum { HOT = 0x100, WARM = 0x800, UNTOLD = 0xc00, LENGTH = 0x1000 };

/* mov rax, rdi; 1: dec rax; jnz 1b; ret */
static const uint8_t spin[] = { 0x48, 0x89, 0xf8, 0x48, 0xff, 0xc8, 0x75, 0xfb, 0xc3 };

static char path[64], other[80];

static void expect(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static uint64_t now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000ull + time.tv_nsec / 1000000;
}

static void tell(const uint8_t *function, const char *name)
{
	FILE *map = fopen(path, "a");

	expect(map != NULL, path);
	expect(fprintf(map, "%lx %zx %s\n", (unsigned long)function, sizeof(spin), name) > 0, path);
	expect(fclose(map) == 0, path);
}

/* The map was last written an hour ago. */
static void age(void)
{
	struct timespec times[2];

	expect(clock_gettime(CLOCK_REALTIME, &times[0]) == 0, "clock_gettime");
	times[0].tv_sec -= 3600;
	times[1] = times[0];
	expect(utimensat(AT_FDCWD, path, times, 0) == 0, path);
}

static void run(const uint8_t *function, uint64_t count)
{
	((void (*)(uint64_t))function)(count);
}

int main(int argc, char **argv)
{
	uint64_t length = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
	const char *trick = argc > 2 ? argv[2] : "";
	uint64_t start = now_ms(), random = 1, now;
	int told = 0;
	uint8_t *code = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE | PROT_EXEC,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	expect(code != MAP_FAILED, "mmap");
	memcpy(code + HOT, spin, sizeof(spin));
	memcpy(code + WARM, spin, sizeof(spin));
	memcpy(code + UNTOLD, spin, sizeof(spin));

	snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
	unlink(path);
	snprintf(other, sizeof(other), "%s.other", path);
	if (!strcmp(trick, "link"))
		expect(symlink(other, path) == 0, path);
	tell(code + HOT, "jit_hot");
	if (!strcmp(trick, "twice"))
		expect(link(path, other) == 0, other);
	if (!strcmp(trick, "strange"))
		expect(chown(path, STRANGER, STRANGER) == 0, path);
	if (!strcmp(trick, "old"))
		age();

	do {
		uint64_t unit = 200 + (random >> 33) % 400;

		random = random * 6364136223846793005ull + 1442695040888963407ull;
		run(code + HOT, 60 * unit);
		run(code + WARM, 30 * unit);
		run(code + UNTOLD, 10 * unit);
		now = now_ms();
		if (!told && now - start > length / 2) {
			tell(code + WARM, "jit_warm");
			if (!strcmp(trick, "old"))
				age();
			told = 1;
		}
	} while (now - start < length);
	return 0;
}
