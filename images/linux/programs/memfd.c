// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Runs the program that is its first argument from a memory file, which has no path in any directory. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv)
{
	struct stat status;
	off_t offset = 0;
	int from, to;

	if (argc < 2)
		return 2;
	from = open(argv[1], O_RDONLY | O_CLOEXEC);
	to = memfd_create("in-memory", MFD_CLOEXEC);
	if (from < 0 || to < 0 || fstat(from, &status)) {
		perror(argv[1]);
		return 1;
	}
	while (offset < status.st_size)
		if (sendfile(to, from, &offset, status.st_size - offset) <= 0) {
			perror("sendfile");
			return 1;
		}
	fexecve(to, argv + 1, environ);
	perror("fexecve");
	return 1;
}
