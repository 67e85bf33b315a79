/*
 * command FIFO is what each contestant runs for a change. It notes its first
 * instant and the value that made it run in FIFO, as "begin NANOSECONDS PID VALUE",
 * and then does what the value says after its dot: ok, fail, or sleepMILLISECONDS,
 * after which it notes "end ...".
 *
 * The value is in $VALUE, or else in the JSON file $WATCHER_DATA.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int note(const char *fifo, const char *what, struct timespec t, const char *value) {
	char line[256]; /* less than PIPE_BUF, so that lines of several commands do not mix */
	int n = snprintf(line, sizeof line, "%s %lld %d %s\n", what, t.tv_sec * 1000000000LL + t.tv_nsec, (int)getpid(), value);
	int fd = open(fifo, O_WRONLY);
	if (fd < 0 || write(fd, line, n) != n) {
		perror(fifo);
		return -1;
	}
	return close(fd);
}

int main(int argc, char **argv) {
	static char data[4096];
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (argc != 2) {
		fprintf(stderr, "usage: command FIFO\n");
		return 2;
	}

	const char *value = getenv("VALUE"), *path = getenv("WATCHER_DATA");
	if (!value && path) {
		FILE *f = fopen(path, "r");
		if (f && fread(data, 1, sizeof data - 1, f) > 0) {
			strtok(data, ":"); /* {"BENCH_key":"value"} */
			value = strtok(NULL, "\"} ");
		}
	}
	if (!value || note(argv[1], "begin", now, value))
		return 2;

	const char *order = strchr(value, '.');
	if (order && !strcmp(order, ".fail"))
		return 1;
	if (order && !strncmp(order, ".sleep", 6)) {
		usleep(1000 * atol(order + 6));
		clock_gettime(CLOCK_REALTIME, &now);
		return note(argv[1], "end", now, value) ? 2 : 0;
	}
	return 0;
}
