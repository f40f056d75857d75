// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Moves and replaces the code that it runs, by turns in each way that Linux has, through 64-bit and 32-bit system calls: a
 * sample that is resolved too late is counted for what lies at its address by then, or for nothing.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Two places below 4 GiB, for 32-bit system calls. */
#define HERE ((void *)0x20000000)
#define THERE ((void *)0x30000000)

/* Several pages, so that a part can be taken. */
#define PAGES 3
#define PAGE 4096ul
#define LENGTH (PAGES * PAGE)

/* Numbers and arguments of the 32-bit system calls (arch/x86/entry/syscalls/syscall_32.tbl). */
enum narrow { NARROW_BRK = 45, NARROW_MMAP = 90, NARROW_MUNMAP = 91, NARROW_MPROTECT = 125, NARROW_MREMAP = 163, NARROW_MMAP2 = 192 };

static long narrow_call(enum narrow number, long a, long b, long c, long d, long e)
{
	long result = number;

	/* The sixth argument, an offset, is 0. There must be no red zone where rbp is kept. */
	__asm__ volatile("push %%rbp; xor %%ebp, %%ebp; int $0x80; pop %%rbp"
			 : "+a"(result)
			 : "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory", "cc", "r8", "r9", "r10", "r11");
	return (int)result;
}

static void expect(int good, const char *what)
{
	if (!good) {
		printf("moves failed: %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static uint64_t now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000ull + time.tv_nsec / 1000000;
}

/* mov rax, rdi; 1: dec rax; jnz 1b; ret */
static const uint8_t spin[] = { 0x48, 0x89, 0xf8, 0x48, 0xff, 0xc8, 0x75, 0xfb, 0xc3 };

/* Files whose code is the same everywhere, and lies at another offset in each. */
static int files[2];

static void make_files(const char *directory)
{
	static uint8_t content[8 * PAGE];

	for (size_t at = 0; at + sizeof(spin) < sizeof(content); at += 64)
		memcpy(content + at, spin, sizeof(spin));
	for (int i = 0; i < 2; i++) {
		struct stat status;
		char path[64];

		snprintf(path, sizeof(path), "%s/code_%c", directory, 'a' + i);
		files[i] = open(path, O_RDWR | O_CREAT | O_TRUNC, 0755);
		expect(files[i] >= 0 && write(files[i], content, sizeof(content)) == sizeof(content), path);
		expect(fstat(files[i], &status) == 0, path);
		printf("truth %lu %s\n", status.st_ino, path);
	}
}

/* Some milliseconds in each page: samples come in all of them, and few before the next turn. */
static void work(const void *code)
{
	for (int page = 0; page < PAGES; page++)
		((void (*)(uint64_t))((uintptr_t)code + page * PAGE))(400000);
}

static void map(void *place, int file, int is_narrow)
{
	const int protection = PROT_READ | PROT_EXEC, flags = MAP_PRIVATE | MAP_FIXED;
	/* The same mapping of each file at another offset. */
	const off_t offset = file * PAGE;
	static uint32_t words[6];

	if (is_narrow == 1)
		expect(narrow_call(NARROW_MMAP2, (long)place, LENGTH, protection, flags, files[0]) ==
			       (long)place, "mmap2");
	else if (is_narrow == 2) {
		uint32_t *low = (uint32_t *)((uintptr_t)THERE + 0x1000000);

		words[0] = (uintptr_t)place, words[1] = LENGTH, words[2] = protection;
		words[3] = flags, words[4] = files[file], words[5] = offset;
		memcpy(low, words, sizeof(words));
		expect(narrow_call(NARROW_MMAP, (long)low, 0, 0, 0, 0) == (long)place, "old mmap");
	} else {
		expect(mmap(place, LENGTH, protection, flags, files[file], offset) == place, "mmap");
	}
}

static void unmap(void *place, int is_narrow)
{
	if (is_narrow)
		expect(narrow_call(NARROW_MUNMAP, (long)place, LENGTH, 0, 0, 0) == 0, "32-bit munmap");
	else
		expect(munmap(place, LENGTH) == 0, "munmap");
}

static void move(void *from, void *to, int is_narrow)
{
	const int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	if (is_narrow)
		expect(narrow_call(NARROW_MREMAP, (long)from, LENGTH, LENGTH, flags, (long)to) ==
			       (long)to, "32-bit mremap");
	else
		expect(mremap(from, LENGTH, LENGTH, flags, to) == to, "mremap");
}

/* Code in memory without a file, of which a part becomes data and code again. */
static void protect(int is_narrow)
{
	const int code = PROT_READ | PROT_EXEC, data = PROT_READ | PROT_WRITE;

	expect(mmap(HERE, LENGTH, data, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == HERE, "mmap");
	for (int page = 0; page < PAGES; page++)
		memcpy((uint8_t *)HERE + page * PAGE, spin, sizeof(spin));
	for (int turn = 0; turn < 2; turn++) {
		expect(mprotect(HERE, LENGTH, code) == 0, "mprotect");
		work(HERE);
		if (is_narrow)
			expect(narrow_call(NARROW_MPROTECT, (long)HERE, PAGE, data, 0, 0) == 0,
			       "32-bit mprotect");
		else
			expect(mprotect(HERE, PAGE, data) == 0, "mprotect");
	}
}

/* Code in the heap, of which the end is given back; a file lies there at once. */
static void shrink_heap(void)
{
	uint8_t *end = (uint8_t *)syscall(SYS_brk, 0), *code = (uint8_t *)(((uintptr_t)end + PAGE - 1) & -PAGE);

	expect((uint8_t *)syscall(SYS_brk, code + LENGTH) == code + LENGTH, "brk");
	expect(mprotect(code, LENGTH, PROT_READ | PROT_WRITE | PROT_EXEC) == 0, "mprotect");
	for (int page = 0; page < PAGES; page++)
		memcpy(code + page * PAGE, spin, sizeof(spin));
	work(code);
	expect((uint8_t *)syscall(SYS_brk, end) == end, "brk");
	map(code, 1, 0);
	work(code);
	unmap(code, 0);
}

int main(int argc, char **argv)
{
	uint64_t end = now_ms() + (argc > 1 ? strtoull(argv[1], NULL, 10) : 1000);

	setvbuf(stdout, NULL, _IONBF, 0);
	make_files(argc > 2 ? argv[2] : "/tmp");
	expect(mmap((uint8_t *)THERE + 0x1000000, PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED, "mmap");
	for (unsigned int turn = 0; turn == 0 || now_ms() < end; turn++) {
		int is_narrow = turn % 2, first = turn / 2 % 2;

		/* One file over the other. */
		map(HERE, first, 0);
		work(HERE);
		map(HERE, !first, is_narrow ? 2 : 0);
		work(HERE);
		map(HERE, 0, is_narrow);
		work(HERE);
		/* Away, over another one, and something else in the old place. */
		map(THERE, !first, 0);
		work(THERE);
		move(HERE, THERE, is_narrow);
		map(HERE, 1, 0);
		work(THERE);
		work(HERE);
		unmap(HERE, is_narrow);
		unmap(THERE, 0);
		protect(is_narrow);
		shrink_heap();
	}
	return 0;
}
