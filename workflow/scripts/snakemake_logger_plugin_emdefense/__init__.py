"""What Snakemake says, as one bar a stage where it is read in a terminal: ``--logger emdefense``.

The default profile asks for it wherever there is a terminal. Everywhere else, and where single lines were asked for
(a dry run, --verbose, --printshellcmds), lines are Snakemake's own. Its log on disk is the same either way.
"""

from logging import LogRecord

from snakemake_interface_logger_plugins.base import LogHandlerBase

from emdefense.progress.terminal import shows_bars


class LogHandler(LogHandlerBase):
    """Hands records on to the bars, or to Snakemake's own handler."""

    def __post_init__(self) -> None:
        """Decide which of the two it is."""
        asked = self.common_settings
        self._bars = shows_bars() and not (asked.dryrun or asked.verbose or asked.printshellcmds or asked.debug_dag)
        if self._bars:
            from emdefense.progress.run_display import RunDisplay

            self._display = RunDisplay()
        else:
            import sys

            from snakemake.logging import ColorizingTextHandler

            self._lines = ColorizingTextHandler(
                nocolor=asked.nocolor, stream=sys.stdout if asked.stdout else sys.stderr
            )

    def emit(self, record: LogRecord) -> None:
        """Show a record."""
        try:
            if self._bars:
                self._display.show(record)
            else:
                self._lines.setFormatter(self.formatter)
                self._lines.emit(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Leave the terminal as it was; what is said at the end comes below the bars."""
        if self._bars:
            self._display.close()
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """True: Snakemake's own lines would come between."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """False: Snakemake writes its log itself."""
        return False

    @property
    def has_filter(self) -> bool:
        """Whether Snakemake need not filter for it; the bars count what quietness would hide."""
        return self._bars

    @property
    def has_formatter(self) -> bool:
        """Whether Snakemake need not format for it."""
        return self._bars

    @property
    def needs_rulegraph(self) -> bool:
        """False: the numbers of jobs suffice."""
        return False
