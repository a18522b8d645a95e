"""Teachers behind one seam: a model in memory, one larger than memory, and one that was written down."""

from minitron.distill.teachers.cache_file import CacheHeader, TeacherCache, open_teacher_cache
from minitron.distill.teachers.cache_writer import write_teacher_cache
from minitron.distill.teachers.cached import CachedTeacher
from minitron.distill.teachers.layerwise import LayerwiseTeacher
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.teachers.records import bytes_per_token
from minitron.distill.teachers.teacher import Teacher

__all__ = [
    "CacheHeader",
    "CachedTeacher",
    "LayerwiseTeacher",
    "OnlineTeacher",
    "Teacher",
    "TeacherCache",
    "bytes_per_token",
    "open_teacher_cache",
    "write_teacher_cache",
]
