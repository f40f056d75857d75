// SPDX-License-Identifier: Apache-2.0 OR MIT
// Throws and catches until its time is over: unwinding is work in three libraries.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace {

__attribute__((noinline)) int thrower(int depth)
{
	if (depth == 0)
		throw std::runtime_error("bottom");
	return thrower(depth - 1) + 1;
}

} // namespace

int main(int argc, char **argv)
{
	using clock = std::chrono::steady_clock;
	const auto end = clock::now() + std::chrono::milliseconds(argc > 1 ? std::atoi(argv[1]) : 1000);
	long caught = 0;

	do {
		try {
			thrower(20);
		} catch (const std::exception &error) {
			caught += std::string(error.what()).size();
		}
	} while (clock::now() < end);
	return caught > 0 ? 0 : 1;
}
