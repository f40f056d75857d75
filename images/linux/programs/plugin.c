// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Loads one library after the other at about the same place, works in it, and unloads it: a sample that is resolved too late
 * would be counted for the library that came next.
 */

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static uint64_t now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000ull + time.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
	static const char *const libraries[] = { "/usr/lib/plugin_a.so", "/usr/lib/plugin_b.so" };
	uint64_t end = now_ms() + (argc > 1 ? strtoull(argv[1], NULL, 10) : 1000);
	uint64_t sum = 0;

	for (unsigned int turn = 0; turn == 0 || now_ms() < end; turn++) {
		const char *const name = turn % 2 ? "work_b" : "work_a";
		void *library = dlopen(libraries[turn % 2], RTLD_NOW);
		uint64_t (*work)(uint64_t) = library ? (uint64_t(*)(uint64_t))dlsym(library, name) : NULL;

		if (!work)
			return 1;
		for (int round = 0; round < 20; round++)
			sum += work(50000);
		dlclose(library);
	}
	return sum == 0;
}
