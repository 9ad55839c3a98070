"""What can go wrong in the trainer, as one tree; each text says what to do.

TrainerError
├── CheckpointError    a checkpoint cannot be read, or is not what it says it is
├── MergeRefused       the checkpoints do not fit together, or hold what must not be averaged
├── OutputError        an output exists already, does not fit on the disk, or cannot be written
├── RecordsError       a file of samples or verdicts cannot be read, or belongs to another study
├── ProblemSetError    a problem set cannot be read, or a problem in it is not valid
├── PromptError        a prompt template cannot be read, or does not fit a problem
├── EngineError        a model or an inference engine cannot be loaded, reached, or does not obey
├── EpisodeError       episodes cannot be played: the service is away, or takes none
├── StudyError         the verdicts do not allow the figure that was asked for
├── RecipeError        a training recipe cannot be read, or does not make sense
└── TrainingError      a training run cannot begin, go on, or be compared with another
"""

from __future__ import annotations


class TrainerError(Exception):
    """Any fault of the trainer."""


class CheckpointError(TrainerError):
    """A checkpoint cannot be read, or is not what it says it is."""


class MergeRefused(TrainerError):
    """The checkpoints do not fit together, or hold what must not be averaged."""


class OutputError(TrainerError):
    """An output exists already, does not fit on the disk, or cannot be written."""


class RecordsError(TrainerError):
    """A file of samples or verdicts cannot be read, or belongs to another study."""


class ProblemSetError(TrainerError):
    """A problem set cannot be read, or a problem in it is not valid."""


class PromptError(TrainerError):
    """A prompt template cannot be read, or does not fit a problem."""


class EngineError(TrainerError):
    """A model or an inference engine cannot be loaded, cannot be reached, or does not obey."""


class EpisodeError(TrainerError):
    """Episodes cannot be played: the service is away, or takes none of this kind."""


class StudyError(TrainerError):
    """The verdicts do not allow the figure that was asked for."""


class RecipeError(TrainerError):
    """A training recipe cannot be read, or does not make sense; names the field."""


class TrainingError(TrainerError):
    """A training run cannot begin, cannot go on, or cannot be compared with another."""
