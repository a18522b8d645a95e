"""Teachers, one file each, behind one seam."""

from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.teachers.teacher import Teacher

__all__ = ["OnlineTeacher", "Teacher"]
