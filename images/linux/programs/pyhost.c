// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Python as a library, as programs embed it: Debian's own interpreter is linked statically. */

int Py_BytesMain(int argc, char **argv);

int main(int argc, char **argv)
{
	return Py_BytesMain(argc, argv);
}
